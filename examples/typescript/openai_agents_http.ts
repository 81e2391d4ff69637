// An agent of the OpenAI Agents SDK with a tool that runs commands over smolvm's HTTP
// API. The sandbox is kept for the whole conversation.
//
//   OPENAI_API_KEY=... node openai_agents_http.ts "Which kernel is in the sandbox?"

import { Agent, run, tool } from "@openai/agents";
import { z } from "zod";
import { connect, Sandbox } from "./smolvm.ts";

await using sandbox = await Sandbox.create(connect(), { memory_mib: 512 });

const runCommand = tool({
  name: "run_command",
  description: "Run a shell command in a Linux sandbox.",
  parameters: z.object({ command: z.string() }),
  execute: async ({ command }) => await sandbox.run({ command, timeout_seconds: 60, output_limit: 16384 }),
});

const agent = new Agent({ name: "Worker", model: "gpt-5.1", tools: [runCommand] });
const result = await run(agent, process.argv[2] ?? "What is in the sandbox?");
console.log(result.finalOutput);
