package vmmtest

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"testing"

	"github.com/smolvm/smolvm/internal/vmm"
)

// envStarter holds the Config of the machine that a test binary shall start
// instead of running tests.
const envStarter = "SMOLVM_VMMTEST_STARTER"

// Main is the TestMain of a driver's package: it runs the tests, and returns the
// exit code. The law of the starter's end needs another process to be the
// starter, for which the test binary is started again.
func Main(m *testing.M, d vmm.Driver) int {
	config := os.Getenv(envStarter)
	if config == "" {
		return m.Run()
	}
	if err := starter(d, config); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// starter starts a machine, says so, and waits to be killed.
func starter(d vmm.Driver, config string) error {
	var c vmm.Config
	if err := json.Unmarshal([]byte(config), &c); err != nil {
		return err
	}
	m, err := d.Start(context.Background(), c)
	if err != nil {
		return err
	}
	fmt.Println(m.Info().PID)
	io.Copy(io.Discard, os.Stdin) // ends with the test that started us
	m.Kill()
	return nil
}

func starterDies(t *testing.T, h Harness) {
	c := h.Config(t)
	config, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), envStarter+"="+string(config))
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer stdin.Close()
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer cmd.Process.Kill()
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	if line != "0\n" && len(processes(c.Name)) == 0 {
		t.Fatal("there is no VMM that could die")
	}
	cmd.Process.Kill() // with SIGKILL: nothing of it can clean up
	wait(t, func() error {
		if list := processes(c.Name); len(list) > 0 {
			return fmt.Errorf("lives on: %v", list)
		}
		return nil
	})
}
