// A thin client of smolvm's HTTP API. Paths and types are generated from the API's
// description (npm run generate); what is here is what a generator cannot know.
//
//   const api = connect();
//   await using sandbox = await Sandbox.create(api);
//   const { exit_code, stdout } = await sandbox.run("uname -a");
//
// Every other call of the API: await api.POST("/v1/sandboxes/{id}/fork", ...).

import { request as httpRequest } from "node:http";
import { homedir } from "node:os";
import { Readable } from "node:stream";
import createClient, { type Client } from "openapi-fetch";
import type { components, paths } from "./generated/smolvm.ts";

export type Api = Client<paths, "application/json">;
export type Spec = components["schemas"]["Spec"];
export type Exec = components["schemas"]["Exec"];
export type ExecResult = components["schemas"]["ExecResult"];
export type ExecEvent = components["schemas"]["ExecEvent"];

// connect speaks to the gateway at SMOLVM_URL with SMOLVM_API_KEY, or without them to
// that of this user (smolvm serve).
export function connect(url = process.env.SMOLVM_URL || `unix://${stateDirectory()}/api.sock`): Api {
  const key = process.env.SMOLVM_API_KEY;
  const headers: Record<string, string> = key ? { authorization: `Bearer ${key}` } : {};
  if (!url.startsWith("unix://")) return createClient<paths, "application/json">({ baseUrl: url, headers });
  const socketPath = url.slice("unix://".length);
  return createClient<paths, "application/json">({ baseUrl: "http://localhost", headers, fetch: (r) => fetchOverSocket(socketPath, r) });
}

function stateDirectory(): string {
  return process.env.SMOLVM_HOME || `${process.env.XDG_STATE_HOME || `${homedir()}/.local/state`}/smolvm`;
}

// fetchOverSocket is fetch over a Unix socket, which Node's own cannot do.
function fetchOverSocket(socketPath: string, r: Request): Promise<Response> {
  return new Promise((resolve, reject) => {
    const { pathname, search } = new URL(r.url);
    const sent = httpRequest(
      { socketPath, path: pathname + search, method: r.method, headers: Object.fromEntries(r.headers), signal: r.signal },
      (got) => {
        const status = got.statusCode ?? 0;
        const empty = status === 204 || status === 304;
        if (empty) got.resume(); // else the connection stays open, and with it the process
        resolve(new Response(empty ? null : (Readable.toWeb(got) as ReadableStream), { status, headers: got.headers as Record<string, string> }));
      },
    );
    sent.on("error", reject);
    if (r.body) Readable.fromWeb(r.body as Parameters<typeof Readable.fromWeb>[0]).pipe(sent);
    else sent.end();
  });
}

// SmolvmError is an error of the API: class says what kind, recovery what to do now.
export class SmolvmError extends Error {
  readonly class: string;
  readonly recovery: string | undefined;

  constructor(e: { class?: string; message?: string; recovery?: string }) {
    super(e.message ?? "the gateway gave no reason");
    this.class = e.class ?? "internal";
    this.recovery = e.recovery;
  }
}

// must returns the data of an answer of the API, or throws its error.
export function must<T>(answer: { data?: T; error?: object; response: Response }): T {
  if (!answer.response.ok) throw new SmolvmError(answer.error ?? {});
  return answer.data as T;
}

// openLease opens the connection that ephemeral sandboxes depend on, and returns its id
// and a function that ends it.
async function openLease(api: Api): Promise<{ id: string; end: () => void }> {
  const body = must(await api.POST("/v1/leases", { parseAs: "stream" }));
  // Cancelled by its reader: the signal of a request may be collected as garbage before.
  const reader = body!.getReader();
  const end = () => void reader.cancel().catch(() => {});
  const decoder = new TextDecoder();
  let text = "";
  while (!text.includes("\n")) {
    const { done, value } = await reader.read();
    if (done) throw new SmolvmError({ message: "open a lease: the gateway ended the connection" });
    text += decoder.decode(value, { stream: true });
  }
  const drain = async () => {
    while (!(await reader.read()).done);
  };
  drain().catch(() => {}); // that the connection ends is no error here
  return { id: JSON.parse(text.slice(0, text.indexOf("\n"))).id, end };
}

// Sandbox is one sandbox. It is removed when it is disposed of, and also when this
// process ends without that: it depends on a lease, an open connection to the gateway.
export class Sandbox implements AsyncDisposable {
  readonly id: string;
  readonly #api: Api;
  readonly #endLease: () => void;

  private constructor(api: Api, id: string, endLease: () => void) {
    this.#api = api;
    this.id = id;
    this.#endLease = endLease;
  }

  static async create(api: Api, spec: Omit<Spec, "ephemeral"> = {}): Promise<Sandbox> {
    const lease = await openLease(api);
    try {
      const answer = await api.POST("/v1/sandboxes", {
        params: { header: { "Smolvm-Lease": lease.id } },
        body: { ...spec, ephemeral: true },
      });
      return new Sandbox(api, must(answer).id, lease.end);
    } catch (e) {
      lease.end();
      throw e;
    }
  }

  // run gives a line to a shell, or an Exec, and waits for its end.
  async run(command: string | Exec): Promise<ExecResult> {
    return must(await this.#api.POST("/v1/sandboxes/{id}/exec", { params: { path: { id: this.id } }, body: exec(command) }));
  }

  // stream does the same and tells what happens as it happens. Leaving the loop ends
  // the command.
  async *stream(command: string | Exec): AsyncGenerator<ExecEvent> {
    const answer = await this.#api.POST("/v1/sandboxes/{id}/exec", {
      params: { path: { id: this.id } },
      body: exec(command),
      headers: { accept: "application/x-ndjson" },
      parseAs: "stream",
    });
    for await (const event of ndjson<ExecEvent>(must(answer))) {
      if (event.error) throw new SmolvmError(event.error);
      yield event;
    }
  }

  async writeFile(path: string, content: string | Uint8Array): Promise<void> {
    must(
      await this.#api.PUT("/v1/sandboxes/{id}/files/content", {
        params: { path: { id: this.id }, query: { path, parents: true } },
        body: content as string,
        bodySerializer: (b: unknown) => b as string,
        headers: { "content-type": "application/octet-stream" },
      }),
    );
  }

  async readFile(path: string): Promise<string> {
    const answer = await this.#api.GET("/v1/sandboxes/{id}/files/content", {
      params: { path: { id: this.id }, query: { path } },
      parseAs: "text",
    });
    return must(answer);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#api.DELETE("/v1/sandboxes/{id}", { params: { path: { id: this.id } } });
    this.#endLease();
  }
}

function exec(command: string | Exec): Exec {
  return typeof command === "string" ? { command } : command;
}

// ndjson reads JSON lines; empty ones only say that the connection lives.
async function* ndjson<T>(body: ReadableStream<Uint8Array> | null): AsyncGenerator<T> {
  if (!body) return;
  const decoder = new TextDecoder();
  let rest = "";
  for await (const part of body) {
    const lines = (rest + decoder.decode(part, { stream: true })).split("\n");
    rest = lines.pop() ?? "";
    for (const line of lines) if (line) yield JSON.parse(line) as T;
  }
}
