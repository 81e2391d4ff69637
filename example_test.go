package smolvm_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"strings"
	"time"

	"github.com/smolvm/smolvm"
)

// One sandbox for one piece of untrusted code.
func Example() {
	ctx := context.Background()
	sb, err := smolvm.Create(ctx, smolvm.Spec{Ephemeral: true})
	if err != nil {
		log.Fatal(err)
	}
	defer sb.Remove(ctx)
	res, err := sb.Run(ctx, smolvm.Command{
		Argv:    []string{"python3", "-c", "print(6*7)"},
		Timeout: time.Minute,
	})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("exit %d: %s", res.ExitCode, res.Stdout)
	// Output: exit 0: 42
}

// Errors have classes; a command's own failure is none.
func ExampleSandbox_Run() {
	ctx := context.Background()
	sb, err := smolvm.Create(ctx, smolvm.Spec{Ephemeral: true, Env: map[string]string{"GREETING": "hello"}})
	if err != nil {
		log.Fatal(err)
	}
	defer sb.Remove(ctx)

	res, err := sb.Run(ctx, smolvm.ShellCommand("echo $GREETING; exit 3"))
	fmt.Println(strings.TrimSpace(string(res.Stdout)), res.ExitCode, err)

	_, err = sb.Run(ctx, smolvm.Command{Argv: []string{"no-such-program"}})
	fmt.Println(errors.Is(err, smolvm.ErrNotFound))
	// Output:
	// hello 3 <nil>
	// true
}

// Files go in and come out as streams.
func ExampleSandbox_WriteFile() {
	ctx := context.Background()
	sb, err := smolvm.Create(ctx, smolvm.Spec{Ephemeral: true})
	if err != nil {
		log.Fatal(err)
	}
	defer sb.Remove(ctx)

	err = sb.WriteFile(ctx, "/root/data.csv", strings.NewReader("a,b\n1,2\n"), smolvm.FileOptions{})
	if err != nil {
		log.Fatal(err)
	}
	b, err := sb.ReadFile(ctx, "/root/data.csv", 0)
	fmt.Printf("%q %v\n", b, err)
	// Output: "a,b\n1,2\n" <nil>
}
