// An agent of LangChain.js that works in sandboxes through smolvm's MCP server.
//
//   OPENAI_API_KEY=... node langchain_mcp.ts "Which kernel is in the sandbox?"

import { MultiServerMCPClient } from "@langchain/mcp-adapters";
import { ChatOpenAI } from "@langchain/openai";
import { createAgent } from "langchain";

const client = new MultiServerMCPClient({
  smolvm: { transport: "stdio", command: "smolvm", args: ["mcp"], env: process.env as Record<string, string> },
});
try {
  const agent = createAgent({ model: new ChatOpenAI({ model: "gpt-5.1" }), tools: await client.getTools() });
  const state = await agent.invoke({ messages: [{ role: "user", content: process.argv[2] ?? "What is in the sandbox?" }] });
  console.log(state.messages.at(-1)?.text);
} finally {
  await client.close(); // and the session's sandboxes are removed
}
