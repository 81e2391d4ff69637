// Langchaingo lets a model work in a sandbox through LangChainGo.
//
//	OPENAI_API_KEY=... go run ./langchaingo "Which Python is in the sandbox?"
package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"os/signal"
	"strings"

	"github.com/tmc/langchaingo/llms"
	"github.com/tmc/langchaingo/llms/openai"

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
	// Each call has a sandbox of its own. For one that all calls share, see ../openai.
	set := tools.Fresh(nil, smolvm.Spec{MemoryMiB: 512}, tools.Options{})
	model, err := openai.New(openai.WithModel("gpt-5.1")) // OPENAI_API_KEY, OPENAI_BASE_URL
	if err != nil {
		return err
	}
	var offered []llms.Tool
	for _, t := range set {
		offered = append(offered, llms.Tool{Type: "function", Function: &llms.FunctionDefinition{
			Name: t.Name, Description: t.Description, Parameters: t.Parameters,
		}})
	}
	messages := []llms.MessageContent{llms.TextParts(llms.ChatMessageTypeHuman, question)}
	for range maxTurns {
		response, err := model.GenerateContent(ctx, messages, llms.WithTools(offered))
		if err != nil {
			return err
		}
		choice := response.Choices[0]
		if len(choice.ToolCalls) == 0 {
			fmt.Println(choice.Content)
			return nil
		}
		asked := llms.TextParts(llms.ChatMessageTypeAI, choice.Content)
		for _, call := range choice.ToolCalls {
			asked.Parts = append(asked.Parts, call)
		}
		messages = append(messages, asked)
		for _, call := range choice.ToolCalls {
			answer, err := set.Call(ctx, call.FunctionCall.Name, []byte(call.FunctionCall.Arguments))
			if err != nil {
				return err
			}
			messages = append(messages, llms.MessageContent{Role: llms.ChatMessageTypeTool, Parts: []llms.ContentPart{
				llms.ToolCallResponse{ToolCallID: call.ID, Name: call.FunctionCall.Name, Content: answer},
			}})
		}
	}
	return errors.New("the model came to no end")
}
