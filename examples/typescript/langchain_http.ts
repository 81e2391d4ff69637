// An agent of LangChain.js with tools over smolvm's HTTP API: commands and files.
//
//   OPENAI_API_KEY=... node langchain_http.ts "Write a poem into a file and count its words."

import { ChatOpenAI } from "@langchain/openai";
import { createAgent, tool } from "langchain";
import { z } from "zod";
import { connect, Sandbox } from "./smolvm.ts";

await using sandbox = await Sandbox.create(connect());

const runCommand = tool(
  async ({ command }) => JSON.stringify(await sandbox.run({ command, timeout_seconds: 60, output_limit: 16384 })),
  { name: "run_command", description: "Run a shell command in a Linux sandbox.", schema: z.object({ command: z.string() }) },
);
const writeFile = tool(
  async ({ path, content }) => {
    await sandbox.writeFile(path, content);
    return "written";
  },
  { name: "write_file", description: "Write a file in the sandbox.", schema: z.object({ path: z.string(), content: z.string() }) },
);
const readFile = tool(async ({ path }) => await sandbox.readFile(path), {
  name: "read_file",
  description: "Read a file of the sandbox.",
  schema: z.object({ path: z.string() }),
});

const agent = createAgent({ model: new ChatOpenAI({ model: "gpt-5.1" }), tools: [runCommand, writeFile, readFile] });
const state = await agent.invoke({ messages: [{ role: "user", content: process.argv[2] ?? "What is in the sandbox?" }] });
console.log(state.messages.at(-1)?.text);
