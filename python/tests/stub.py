"""A gateway that answers what a test says, over a real Unix socket."""

import http.server
import json
import os
import socketserver
import tempfile
import threading
import unittest

import smolvm


class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
    request_queue_size = 64


class Stub(unittest.TestCase):
    """Answers by self.routes: {"METHOD /path": function of the request, or an answer}.

    An answer is JSON, or (status, JSON). A function may write by itself and return None.
    """

    def setUp(self):
        self.routes = {
            "POST /v1/leases": self.lease,
            "POST /v1/sandboxes": self.create,
            "DELETE /v1/sandboxes/ID": (204, None),
            "GET /v1/sandboxes/ID": {"id": "ID", "name": "x", "state": "running"},
            "POST /v1/sandboxes/ID/start": {},
            "POST /v1/sandboxes/ID/stop": {},
        }
        self.seen = []  # (method, path with query, headers, body)
        self.connections = 0
        self.lease_ended = threading.Event()
        dir = tempfile.TemporaryDirectory()
        self.addCleanup(dir.cleanup)
        self.path = os.path.join(dir.name, "api.sock")
        self.serve(self.path)
        self.client = smolvm.Client(f"unix://{self.path}")
        self.addCleanup(self.client.close)

    def serve(self, path):
        stub = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self):
                self.client_address = ("unix", 0)
                super().setup()
                stub.connections += 1

            def log_message(self, *_):
                pass

            def handle(self):
                try:
                    super().handle()
                except (BrokenPipeError, ConnectionResetError):
                    pass

            def answer(self):
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                if self.headers.get("Transfer-Encoding") == "chunked":
                    while size := int(self.rfile.readline(), 16):
                        body += self.rfile.read(size)
                        self.rfile.readline()
                    self.rfile.readline()
                self.body = body
                stub.seen.append((self.command, self.path, self.headers, body))
                found = stub.routes.get(f"{self.command} {self.path.partition('?')[0]}")
                if callable(found):
                    found = found(self)
                    if found is None:
                        return
                self.reply(found)

            do_GET = do_POST = do_PUT = do_DELETE = answer

            def reply(self, found):
                status, value = found if isinstance(found, tuple) else (200, found)
                if value is None and status == 200:
                    status, value = 404, {"class": "not_found", "message": f"no route {self.path}"}
                data = b"" if value is None else value if isinstance(value, bytes) else json.dumps(value).encode()
                self.send_response(status)
                if status != 204:
                    self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def begin(self):
                self.send_response(200)
                self.send_header("Transfer-Encoding", "chunked")
                self.end_headers()

            def line(self, value):
                data = (value if isinstance(value, bytes) else json.dumps(value).encode()) + b"\n"
                self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
                self.wfile.flush()

            def end(self):
                self.wfile.write(b"0\r\n\r\n")

            def hangs_up(self):
                """Wait until the client has gone."""
                try:
                    return self.connection.recv(1) == b""
                except ConnectionError:
                    return True

        server = Server(path, Handler)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()

        def stop():
            server.shutdown()
            server.server_close()
            thread.join()

        self.addCleanup(stop)

    def lease(self, request):
        request.begin()
        request.line({"id": "L1"})
        request.hangs_up()
        self.lease_ended.set()
        request.close_connection = True

    def create(self, request):
        request.begin()
        request.line({"progress": {"step": "pull base", "done": 1, "total": 2}})
        request.line({"sandbox": {"id": "ID", "name": "x", "state": "running", **json.loads(request.body)}})
        request.end()

    def bodies(self, route):
        """Return the JSON of the requests to a route."""
        return [json.loads(b) for m, p, _, b in self.seen if f"{m} {p.partition('?')[0]}" == route]

    def vm(self, **options):
        return smolvm.SmolVM(client=self.client, **options)
