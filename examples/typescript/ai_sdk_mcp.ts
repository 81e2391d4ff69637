// The Vercel AI SDK with the tools of smolvm's MCP server.
//
//   OPENAI_API_KEY=... node ai_sdk_mcp.ts "Which kernel is in the sandbox?"

import { createMCPClient } from "@ai-sdk/mcp";
import { Experimental_StdioMCPTransport as StdioTransport } from "@ai-sdk/mcp/mcp-stdio";
import { openai } from "@ai-sdk/openai";
import { generateText, stepCountIs } from "ai";

const client = await createMCPClient({
  transport: new StdioTransport({ command: "smolvm", args: ["mcp"], env: process.env as Record<string, string> }),
});
try {
  const { text } = await generateText({
    model: openai("gpt-5.1"),
    tools: await client.tools(),
    stopWhen: stepCountIs(20),
    prompt: process.argv[2] ?? "What is in the sandbox?",
  });
  console.log(text);
} finally {
  await client.close(); // and the session's sandboxes are removed
}
