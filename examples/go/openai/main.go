// Openai lets a model work in a sandbox through OpenAI's chat completions.
//
//	OPENAI_API_KEY=... go run ./openai "What is the sum of the first 100 primes?"
package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"os/signal"
	"strings"

	"github.com/openai/openai-go/v3"

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
	sb, err := smolvm.Create(ctx, smolvm.Spec{Ephemeral: true})
	if err != nil {
		return err
	}
	defer sb.Remove(context.WithoutCancel(ctx))
	set := tools.In(sb, tools.Options{})

	client := openai.NewClient() // OPENAI_API_KEY, OPENAI_BASE_URL
	params := openai.ChatCompletionNewParams{
		Model:    openai.ChatModelGPT5_1,
		Messages: []openai.ChatCompletionMessageParamUnion{openai.UserMessage(question)},
	}
	for _, t := range set {
		params.Tools = append(params.Tools, openai.ChatCompletionFunctionTool(openai.FunctionDefinitionParam{
			Name: t.Name, Description: openai.String(t.Description), Parameters: t.Parameters,
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
			answer, err := set.Call(ctx, call.Function.Name, []byte(call.Function.Arguments))
			if err != nil {
				return err
			}
			params.Messages = append(params.Messages, openai.ToolMessage(answer, call.ID))
		}
	}
	return errors.New("the model came to no end")
}
