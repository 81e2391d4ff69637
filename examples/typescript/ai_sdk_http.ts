// The Vercel AI SDK with a tool over smolvm's HTTP API. What a command writes and what
// the model says are shown as they come.
//
//   OPENAI_API_KEY=... node ai_sdk_http.ts "Count to five, one number a second."

import { openai } from "@ai-sdk/openai";
import { stepCountIs, streamText, tool } from "ai";
import { z } from "zod";
import { connect, Sandbox } from "./smolvm.ts";

await using sandbox = await Sandbox.create(connect());

const runCommand = tool({
  description: "Run a shell command in a Linux sandbox.",
  inputSchema: z.object({ command: z.string() }),
  execute: async ({ command }) => {
    let output = "";
    for await (const event of sandbox.stream({ command, timeout_seconds: 60, output_limit: 16384 })) {
      if (event.type === "stdout" || event.type === "stderr") {
        output += event.data ?? "";
        process.stderr.write(event.data ?? "");
      }
      if (event.ended) output += `[exit code ${event.ended.exit_code}]`;
    }
    return output;
  },
});

const { textStream } = streamText({
  model: openai("gpt-5.1"),
  tools: { run_command: runCommand },
  stopWhen: stepCountIs(20),
  prompt: process.argv[2] ?? "What is in the sandbox?",
});
for await (const text of textStream) process.stdout.write(text);
console.log();
