// Mcp lets a model work in sandboxes through smolvm's MCP server, with the official
// client of the protocol. The server's sandboxes end with the session.
//
//	OPENAI_API_KEY=... go run ./mcp "Try three ways to sort in Python; which is fastest?"
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"os"
	"os/exec"
	"os/signal"
	"strings"

	"github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/openai/openai-go/v3"
)

// maxTurns bounds how often the model may ask for tools.
const maxTurns = 20

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, strings.Join(os.Args[1:], " ")); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, question string) error {
	server := &mcp.CommandTransport{Command: exec.Command("smolvm", "mcp")}
	session, err := mcp.NewClient(&mcp.Implementation{Name: "example", Version: "1"}, nil).Connect(ctx, server, nil)
	if err != nil {
		return err
	}
	defer session.Close()

	client := openai.NewClient() // OPENAI_API_KEY, OPENAI_BASE_URL
	params := openai.ChatCompletionNewParams{
		Model:    openai.ChatModelGPT5_1,
		Messages: []openai.ChatCompletionMessageParamUnion{openai.UserMessage(question)},
	}
	for t, err := range session.Tools(ctx, nil) {
		if err != nil {
			return err
		}
		params.Tools = append(params.Tools, openai.ChatCompletionFunctionTool(openai.FunctionDefinitionParam{
			Name: t.Name, Description: openai.String(t.Description), Parameters: t.InputSchema.(map[string]any),
		}))
	}
	for range maxTurns {
		completion, err := client.Chat.Completions.New(ctx, params)
		if err != nil {
			return err
		}
		message := completion.Choices[0].Message
		if len(message.ToolCalls) == 0 {
			fmt.Println(message.Content)
			return nil
		}
		params.Messages = append(params.Messages, message.ToParam())
		for _, call := range message.ToolCalls {
			result, err := session.CallTool(ctx, &mcp.CallToolParams{
				Name: call.Function.Name, Arguments: json.RawMessage(call.Function.Arguments),
			})
			if err != nil {
				return err
			}
			params.Messages = append(params.Messages, openai.ToolMessage(text(result), call.ID))
		}
	}
	return errors.New("the model came to no end")
}

// text is what the model is told of a result, which may be an error.
func text(r *mcp.CallToolResult) string {
	var b strings.Builder
	for _, c := range r.Content {
		if t, ok := c.(*mcp.TextContent); ok {
			b.WriteString(t.Text)
		}
	}
	return b.String()
}
