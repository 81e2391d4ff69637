package agent_test

import (
	"fmt"
	"net"
	"os/exec"
	"testing"

	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/guest"
	"github.com/smolvm/smolvm/internal/guest/agent"
)

func TestOwner(t *testing.T) {
	c := serve(t, agent.Options{})
	for _, addr := range []string{"127.0.0.1:0", "[::1]:0"} {
		t.Run(addr, func(t *testing.T) {
			ends := make(chan int, 1)
			release := make(chan struct{})
			port := listen(t, addr, func(conn *net.TCPConn) {
				ends <- conn.RemoteAddr().(*net.TCPAddr).Port
				<-release
				conn.Close()
			})
			host, _, _ := net.SplitHostPort(addr)
			script := fmt.Sprintf("exec 3<>/dev/tcp/%s/%d; read -u 3 x; true", host, port)
			cmd := exec.Command("bash", "-c", script)
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			local := <-ends
			got, err := c.Owner(testContext(t), guest.Owner{Proto: "tcp", Port: local, RemotePort: port})
			if err != nil || got.PID != cmd.Process.Pid || len(got.Argv) != 3 || got.Argv[2] != script {
				t.Errorf("%+v, %v; want %d", got, err, cmd.Process.Pid)
			}
			if got, err := c.Owner(testContext(t), guest.Owner{Proto: "tcp", Port: local, RemotePort: port + 1}); api.ClassOf(err) != api.NotFound {
				t.Errorf("another connection: %+v, %v", got, err)
			}
			close(release)
			if err := cmd.Wait(); err != nil {
				t.Error(err)
			}
			if got, err := c.Owner(testContext(t), guest.Owner{Proto: "tcp", Port: local, RemotePort: port}); api.ClassOf(err) != api.NotFound {
				t.Errorf("of a process that ended: %+v, %v", got, err)
			}
		})
	}
	if _, err := c.Owner(testContext(t), guest.Owner{Proto: "sctp", Port: 1}); api.ClassOf(err) != api.Invalid {
		t.Errorf("an unknown protocol: %v", err)
	}
}
