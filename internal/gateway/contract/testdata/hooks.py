"""What Schemathesis must not do to the host, and what makes its requests hit something."""

import json
import os
import random

import requests
import schemathesis

PICK = random.Random(1)


@schemathesis.hook
def before_call(context, case, kwargs):
    path, body = case.operation.path, case.body
    if path == "/v1/sandboxes/{id}" and case.method.upper() == "DELETE":
        if case.path_parameters.get("id") in (os.environ["BOX"], "box"):
            case.path_parameters["id"] = "none"  # ids are taken from earlier answers too
    elif "{id}" in path and PICK.random() < 0.8:
        case.path_parameters["id"] = os.environ["BOX"]
    if isinstance(body, dict):
        body.pop("mounts", None)  # folders of this host
        body.pop("no_template", None)
        if isinstance(body.get("n"), int):
            body["n"] = min(body["n"], 2)  # children of a fork
        if path.endswith("/rename") and isinstance(body.get("name"), str):
            body["name"] = "box"  # not one that a later request may remove
        if path.endswith(("/exec", "/processes")):
            seconds = body.get("timeout_seconds", 0)
            if isinstance(seconds, (int, float)) and not 0 > seconds:
                body["timeout_seconds"] = min(seconds or 2, 2)  # a shell on a terminal waits for ever
        if path.endswith("/stop"):
            body["grace_seconds"] = -1
    if case.query:
        case.query.pop("follow", None)  # does not end


schemathesis.serializer.alias("application/x-tar", "application/octet-stream")


@schemathesis.deserializer("application/x-ndjson")
def last_line(context, response):
    return json.loads(response.content.splitlines()[-1])


@schemathesis.hook
def after_call(context, case, response):
    if case.method.upper() != "POST" or response.status_code != 201:
        return
    base = response.request.url.split("/v1/")[0]
    headers = {"Authorization": response.request.headers.get("Authorization", "")}
    if not response.headers.get("Content-Type", "").startswith("application/json"):
        return
    made = response.json()
    made = made.get("sandboxes", [made]) if isinstance(made, dict) else []
    for sandbox in made:
        if "state" in sandbox and sandbox.get("name") != "box":
            requests.delete(f"{base}/v1/sandboxes/{sandbox['id']}", headers=headers, timeout=60)
