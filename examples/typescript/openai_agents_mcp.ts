// An agent of the OpenAI Agents SDK that works in sandboxes through smolvm's MCP server.
//
//   OPENAI_API_KEY=... node openai_agents_mcp.ts "Which kernel is in the sandbox?"

import { Agent, MCPServerStdio, run } from "@openai/agents";

const server = new MCPServerStdio({ name: "smolvm", fullCommand: "smolvm mcp", env: process.env as Record<string, string> });
await server.connect();
try {
  const agent = new Agent({
    name: "Worker",
    model: "gpt-5.1",
    instructions: "Do all work in the sandbox.",
    mcpServers: [server],
  });
  const result = await run(agent, process.argv[2] ?? "What is in the sandbox?");
  console.log(result.finalOutput);
} finally {
  await server.close(); // and the session's sandboxes are removed
}
