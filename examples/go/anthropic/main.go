// Anthropic lets a model work in a sandbox through Anthropic's messages, and shows
// its words as they come. With SMOLVM_URL set the sandbox is behind that gateway.
//
//	ANTHROPIC_API_KEY=... go run ./anthropic "Which of your CPU's flags begin with a?"
package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"os/signal"
	"strings"

	"github.com/anthropics/anthropic-sdk-go"

	"github.com/smolvm/smolvm"
	"github.com/smolvm/smolvm/tools"
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
	sandboxes := smolvm.Client{BaseURL: os.Getenv("SMOLVM_URL"), APIKey: os.Getenv("SMOLVM_API_KEY")}
	sb, err := sandboxes.Create(ctx, smolvm.Spec{Ephemeral: true})
	if err != nil {
		return err
	}
	defer sb.Remove(context.WithoutCancel(ctx))
	set := tools.In(sb, tools.Options{})

	client := anthropic.NewClient() // ANTHROPIC_API_KEY, ANTHROPIC_BASE_URL
	params := anthropic.MessageNewParams{
		Model:     anthropic.ModelClaudeSonnet4_5,
		MaxTokens: 4096,
		Messages:  []anthropic.MessageParam{anthropic.NewUserMessage(anthropic.NewTextBlock(question))},
	}
	for _, t := range set {
		params.Tools = append(params.Tools, anthropic.ToolUnionParam{OfTool: &anthropic.ToolParam{
			Name: t.Name, Description: anthropic.String(t.Description),
			InputSchema: anthropic.ToolInputSchemaParam{Properties: t.Parameters["properties"], Required: t.Parameters["required"].([]string)},
		}})
	}
	for range maxTurns {
		message, err := say(ctx, client, params)
		if err != nil {
			return err
		}
		var results []anthropic.ContentBlockParamUnion
		for _, block := range message.Content {
			if call, ok := block.AsAny().(anthropic.ToolUseBlock); ok {
				answer, err := set.Call(ctx, call.Name, call.Input)
				if err != nil {
					return err
				}
				results = append(results, anthropic.NewToolResultBlock(call.ID, answer, false))
			}
		}
		if len(results) == 0 {
			return nil
		}
		params.Messages = append(params.Messages, message.ToParam(), anthropic.NewUserMessage(results...))
	}
	return errors.New("the model came to no end")
}

// say prints what the model says and returns its whole message.
func say(ctx context.Context, client anthropic.Client, params anthropic.MessageNewParams) (anthropic.Message, error) {
	var message anthropic.Message
	stream := client.Messages.NewStreaming(ctx, params)
	defer stream.Close()
	for stream.Next() {
		event := stream.Current()
		if err := message.Accumulate(event); err != nil {
			return message, err
		}
		fmt.Print(event.Delta.Text)
	}
	fmt.Println()
	return message, stream.Err()
}
