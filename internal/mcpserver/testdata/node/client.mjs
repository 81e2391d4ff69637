// Lists and calls tools as told: client.mjs PLAN stdio COMMAND ARG... | http URL KEY
import { readFileSync } from "node:fs";
import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { StdioClientTransport } from "@modelcontextprotocol/sdk/client/stdio.js";
import { StreamableHTTPClientTransport } from "@modelcontextprotocol/sdk/client/streamableHttp.js";

const [plan, way, ...rest] = process.argv.slice(2);
const transport =
  way === "stdio"
    ? new StdioClientTransport({ command: rest[0], args: rest.slice(1), env: process.env })
    : new StreamableHTTPClientTransport(new URL(rest[0]), { requestInit: { headers: { Authorization: `Bearer ${rest[1]}` } } });
const client = new Client({ name: "test", version: "1" });
await client.connect(transport);

const saved = {};
const fill = (v) => (typeof v === "string" && v.startsWith("$") ? saved[v.slice(1)] : v);
const { tools } = await client.listTools();
const out = { tools: tools.map((t) => t.name), calls: [], progress: 0 };
for (const c of JSON.parse(readFileSync(plan, "utf8"))) {
  const args = Object.fromEntries(Object.entries(c.args ?? {}).map(([k, v]) => [k, fill(v)]));
  const res = await client.callTool({ name: c.tool, arguments: args }, undefined, {
    timeout: 300000,
    resetTimeoutOnProgress: true,
    onprogress: () => out.progress++,
  });
  if (c.save) saved[c.save] = res.structuredContent[c.save];
  out.calls.push({ tool: c.tool, text: res.content[0].text ?? "", error: res.isError ?? false, structured: res.structuredContent !== undefined });
}
const uri = `smolvm://sandbox/${saved.sandbox}/file/tmp/hello.txt`;
out.resource = (await client.readResource({ uri })).contents[0].text;
out.templates = (await client.listResourceTemplates()).resourceTemplates.length;
console.log(JSON.stringify(out));
if (way === "http") await transport.terminateSession();
await client.close();
