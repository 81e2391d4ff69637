package tools

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/smolvm/smolvm"
	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/plain"
)

type commandArgs struct {
	Command string `json:"command" jsonschema:"a command line for /bin/sh"`
	Cwd     string `json:"cwd,omitempty" jsonschema:"working directory; default: the home directory"`
	Stdin   string `json:"stdin,omitempty" jsonschema:"standard input"`
	Timeout int    `json:"timeout_seconds,omitempty" jsonschema:"then it is ended, and the output so far returned"`
}

func (b box) runCommand() Tool {
	about := fmt.Sprintf("Run a shell command in a Linux sandbox and return its exit code and output. "+
		"It is ended after %v. Output beyond %d bytes is dropped: send longer output to a file.", b.Timeout, b.Limit)
	return define(b, "run_command", about, func(ctx context.Context, sb *smolvm.Sandbox, a commandArgs) (any, error) {
		c := smolvm.ShellCommand(a.Command)
		c.Dir, c.Stdin = a.Cwd, strings.NewReader(a.Stdin)
		return b.command(ctx, sb, c, a.Timeout)
	})
}

type codeArgs struct {
	Language string `json:"language" jsonschema:"python, node or sh"`
	Code     string `json:"code" jsonschema:"the program; print what is to be seen"`
	Timeout  int    `json:"timeout_seconds,omitempty" jsonschema:"then it is ended, and the output so far returned"`
}

func (b box) runCode() Tool {
	about := fmt.Sprintf("Run a program in a Linux sandbox and return its exit code and output. "+
		"It is ended after %v. Output beyond %d bytes is dropped.", b.Timeout, b.Limit)
	return define(b, "run_code", about, func(ctx context.Context, sb *smolvm.Sandbox, a codeArgs) (any, error) {
		argv, err := interpreter(a.Language)
		if err != nil {
			return nil, err
		}
		return b.command(ctx, sb, smolvm.Command{Argv: argv, Stdin: strings.NewReader(a.Code)}, a.Timeout)
	})
}

// interpreter returns what reads a program of a language from its input.
func interpreter(language string) ([]string, error) {
	switch language {
	case "python":
		return []string{"python3", "-"}, nil
	case "node":
		return []string{"node", "-"}, nil
	case "sh":
		return []string{"/bin/sh", "-s"}, nil
	}
	return nil, api.Errorf(api.Invalid, "language %q is not known", language).
		WithRecovery("Use python, node or sh, or run_command with an interpreter of the sandbox.")
}

// commandAnswer is what a model learns of a command. Only what is unusual is said
// beside code and output.
type commandAnswer struct {
	ExitCode  int    `json:"exit_code"`
	Stdout    string `json:"stdout"`
	Stderr    string `json:"stderr"`
	Signal    string `json:"signal,omitempty"`
	TimedOut  bool   `json:"timed_out,omitempty"`
	OOM       bool   `json:"out_of_memory,omitempty"`
	Truncated bool   `json:"truncated,omitempty"`
}

func (b box) command(ctx context.Context, sb *smolvm.Sandbox, c smolvm.Command, seconds int) (any, error) {
	if seconds < 0 {
		return nil, api.Errorf(api.Invalid, "timeout_seconds %d is negative", seconds)
	}
	c.Timeout, c.User, c.OutputLimit = b.Timeout, b.User, int64(b.Limit)
	if seconds > 0 && float64(seconds) < b.Timeout.Seconds() {
		c.Timeout = time.Duration(seconds) * time.Second
	}
	r, err := sb.Run(ctx, c)
	if err != nil {
		return nil, err
	}
	return commandAnswer{
		ExitCode: r.ExitCode, Stdout: valid(r.Stdout), Stderr: valid(r.Stderr), Signal: r.Signal,
		TimedOut: r.TimedOut, OOM: r.OOM, Truncated: r.Truncated,
	}, nil
}

// valid is b as text. Bytes that are none become one U+FFFD for each run of them, so
// that a model is not flooded with those.
func valid(b []byte) string { return strings.ToValidUTF8(string(b), "\uFFFD") }

type readArgs struct {
	Path   string `json:"path" jsonschema:"absolute path of the file"`
	Offset int64  `json:"offset,omitempty" jsonschema:"bytes to leave out at the beginning"`
}

type readAnswer struct {
	Size       int64  `json:"size"` // of the whole file
	Content    string `json:"content"`
	Encoding   string `json:"encoding"`
	NextOffset int64  `json:"next_offset,omitempty"` // where the next part begins
}

func (b box) readFile() Tool {
	about := fmt.Sprintf("Read a file of the sandbox, at most %d bytes at a time: text, or base64 where it is none. "+
		"Go on at next_offset where there is more.", b.Limit)
	return define(b, "read_file", about, func(ctx context.Context, sb *smolvm.Sandbox, a readArgs) (any, error) {
		if a.Offset < 0 {
			return nil, api.Errorf(api.Invalid, "offset %d is negative", a.Offset)
		}
		r, info, err := sb.OpenFile(ctx, a.Path)
		if err != nil {
			return nil, err
		}
		defer r.Close()
		return readPart(r, info.Size, a.Offset, b.Limit)
	})
}

func readPart(r io.Reader, size, offset int64, limit int) (any, error) {
	if _, err := io.CopyN(io.Discard, r, offset); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	// One byte more tells whether there is more.
	part, err := io.ReadAll(io.LimitReader(r, int64(limit)+1))
	if err != nil {
		return nil, err
	}
	answer := readAnswer{Size: size, Encoding: api.EncodingUTF8}
	if len(part) > limit {
		part = part[:limit]
		if n := plain.Whole(part); n > 0 {
			part = part[:n]
		}
		answer.NextOffset = offset + int64(len(part))
	}
	answer.Content = string(part)
	if !utf8.Valid(part) {
		answer.Content, answer.Encoding = base64.StdEncoding.EncodeToString(part), api.EncodingBase64
	}
	return answer, nil
}

type writeArgs struct {
	Path    string `json:"path" jsonschema:"absolute path of the file; missing directories are made"`
	Content string `json:"content" jsonschema:"what the file is to hold"`
	Append  bool   `json:"append,omitempty" jsonschema:"add to the end instead of replacing the file"`
}

func (b box) writeFile() Tool {
	return define(b, "write_file", "Write a text file in the sandbox.",
		func(ctx context.Context, sb *smolvm.Sandbox, a writeArgs) (any, error) {
			o := smolvm.FileOptions{Parents: true, Append: a.Append}
			if err := sb.WriteFile(ctx, a.Path, strings.NewReader(a.Content), o); err != nil {
				return nil, err
			}
			return map[string]int{"bytes": len(a.Content)}, nil
		})
}

type listArgs struct {
	Path string `json:"path" jsonschema:"absolute path of the directory"`
}

type listAnswer struct {
	Files []listed `json:"files"`
	// Missing counts those left out to keep the answer short.
	Missing int `json:"missing,omitempty"`
}

type listed struct {
	Name string `json:"name"`
	Type string `json:"type"`
	Size int64  `json:"size"`
}

// listedBytes is what an entry of a list takes beside its name, about.
const listedBytes = 40

func (b box) listFiles() Tool {
	return define(b, "list_files", "List a directory of the sandbox.",
		func(ctx context.Context, sb *smolvm.Sandbox, a listArgs) (any, error) {
			files, err := sb.ReadDir(ctx, a.Path)
			if err != nil {
				return nil, err
			}
			answer, left := listAnswer{Files: []listed{}}, b.Limit
			for i, f := range files {
				if left -= len(f.Name) + listedBytes; left < 0 {
					answer.Missing = len(files) - i
					break
				}
				answer.Files = append(answer.Files, listed{f.Name, f.Type, f.Size})
			}
			return answer, nil
		})
}
