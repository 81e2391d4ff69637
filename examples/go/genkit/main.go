// Genkit lets a model work in a sandbox through Genkit, which calls the tools itself.
//
//	OPENAI_API_KEY=... go run . "Draw the Mandelbrot set in letters."
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log"
	"os"
	"os/signal"
	"strings"

	"github.com/firebase/genkit/go/ai"
	"github.com/firebase/genkit/go/genkit"
	"github.com/firebase/genkit/go/plugins/compat_oai/openai"

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

	// The plugin reads OPENAI_API_KEY and OPENAI_BASE_URL.
	g := genkit.Init(ctx, genkit.WithPlugins(&openai.OpenAI{}), genkit.WithDefaultModel("openai/gpt-4.1"))
	var offered []ai.ToolRef
	for _, t := range tools.In(sb, tools.Options{}) {
		call := func(ctx *ai.ToolContext, input any) (string, error) {
			arguments, err := json.Marshal(input)
			if err != nil {
				return "", err
			}
			return t.Call(ctx, arguments)
		}
		offered = append(offered, genkit.DefineTool(g, t.Name, t.Description, call, ai.WithInputSchema(t.Parameters)))
	}
	answer, err := genkit.GenerateText(ctx, g, ai.WithPrompt("%s", question), ai.WithTools(offered...), ai.WithMaxTurns(maxTurns))
	if err != nil {
		return err
	}
	fmt.Println(answer)
	return nil
}
