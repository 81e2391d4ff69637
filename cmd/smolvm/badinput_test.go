package main

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// badInput is one command line that must be refused.
type badInput struct {
	args string // words, separated by spaces; see expand
	code string // of the JSON error
	exit int
	text string // in the message
}

// Words of a badInput that stand for what cannot be written there.
var badWords = strings.NewReplacer(
	"EMPTY", "",
	"NEWLINE", "a\nb",
	"NUL", "A=x\x01y", // no argument of a program can hold a real NUL
	"ESCAPE", "\x1b[2Jx",
	"LONG64", strings.Repeat("a", 64),
	"LONG600", strings.Repeat("a", 600),
	"LONGKEY", strings.Repeat("K", 300)+"=v",
	"LONGLABEL", "k="+strings.Repeat("v", 1025),
	"UTF8", "naïve",
	"SPACE", "a b",
)

const usage = 2

var badInputs = []badInput{
	// Names.
	{"create --name UPPER", "invalid_input", 1, `name "UPPER" is not valid`},
	{"create --name -web", "invalid_input", 1, "is not valid"},
	{"create --name web_1", "invalid_input", 1, "is not valid"},
	{"create --name a/b", "invalid_input", 1, "is not valid"},
	{"create --name ..", "invalid_input", 1, "is not valid"},
	{"create --name LONG64", "invalid_input", 1, "is not valid"},
	{"create --name UTF8", "invalid_input", 1, "is not valid"},
	{"create --name SPACE", "invalid_input", 1, "is not valid"},
	{"create --name NEWLINE", "invalid_input", 1, `name "a\nb" is not valid`},
	{"create --name ESCAPE", "invalid_input", 1, `name "\x1b[2Jx" is not valid`},
	{"run --name UPPER -- true", "invalid_input", 125, "is not valid"},

	// Sizes.
	{"create --cpus 0", "invalid_input", 1, "0 cpus are too few"},
	{"create --cpus -1", "invalid_input", 1, "cpus"},
	{"create --cpus 65", "invalid_input", 1, "cpus is 65, outside 1 to 64"},
	{"create --cpus many", "usage_error", usage, "invalid argument"},
	{"create --cpus 1.5", "usage_error", usage, "invalid argument"},
	{"create --cpus 99999999999999999999", "usage_error", usage, "invalid argument"},
	{"create --memory 0", "usage_error", usage, "is not a size"},
	{"create --memory -512", "usage_error", usage, "is not a size"},
	{"create --memory 1K", "usage_error", usage, "is not a size"},
	{"create --memory 1e9", "usage_error", usage, "is not a size"},
	{"create --memory NaN", "usage_error", usage, "is not a size"},
	{"create --memory 0.3", "usage_error", usage, "not a whole number of MiB"},
	{"create --memory 127", "invalid_input", 1, "memory is 127 MiB, outside 128 to"},
	{"create --memory 2T", "invalid_input", 1, "memory is 2097152 MiB, outside"},
	{"create --memory EMPTY", "usage_error", usage, "is not a size"},
	{"create --disk 63", "invalid_input", 1, "disk is 63 MiB, outside 64 to"},
	{"create --disk 99T", "invalid_input", 1, "disk is"},
	{"create --disk all", "usage_error", usage, "is not a size"},
	{"run --memory 1 -- true", "invalid_input", 125, "outside 128 to"},

	// Times.
	{"create --ttl soon", "usage_error", usage, "is not a time"},
	{"create --ttl -5s", "usage_error", usage, "negative"},
	{"create --ttl NaN", "usage_error", usage, "too long"},
	{"create --ttl 1e300", "usage_error", usage, "too long"},
	{"create --ttl 100000h", "invalid_input", 1, "time to live of 3.6e+08 seconds is outside"},
	{"create --idle-timeout later", "usage_error", usage, "is not a time"},
	{"create --idle-timeout 100000h", "invalid_input", 1, "idle timeout of"},
	{"run --timeout x -- true", "usage_error", usage, "is not a time"},
	{"stop --timeout x web", "usage_error", usage, "is not a time"},

	// Isolation and accelerator.
	{"create --min-isolation perfect", "invalid_input", 1, `isolation level "perfect" is not known`},
	{"create --accel warp", "invalid_input", 1, `accelerator "warp" is not known`},

	// Environment and labels.
	{"create -e =value", "invalid_input", 1, "environment variable name"},
	{"create -e SMOLVM_SURELY_NOT_SET", "invalid_input", 1, "is not set here"},
	{"create -e LONGKEY", "invalid_input", 1, "environment variable name"},
	{"create --env-file no-such-file", "invalid_input", 1, "read env file"},
	{"create --env-file .", "exhausted", 1, "unreadable"},
	{"create --label plain", "invalid_input", 1, `label "plain" has no value`},
	{"create --label =x", "invalid_input", 1, "has no value"},
	{"create --label LONGLABEL", "invalid_input", 1, `label "k" is not valid`},
	{"ls --label plain", "invalid_input", 1, "has no value"},
	{"ls --state asleep", "invalid_input", 1, `state "asleep" is not known`},
	{"env set web", "usage_error", usage, "no variable is named"},
	{"env set web =x", "invalid_input", 1, "environment variable name"},
	{"env unset web", "usage_error", usage, "requires at least 2 arg"},

	// Images.
	{"create --image no-such-image", "not_found", 1, "no-such-image"},
	{"create --image UPPER", "invalid_input", 1, "UPPER"},
	{"create --image LONG600", "invalid_input", 1, "longer than 512"},
	{"create --image :tag", "invalid_input", 1, ":tag"},
	{"run --image no-such-image -- true", "not_found", 125, "no-such-image"},
	{"image inspect no-such-image", "not_found", 1, "no-such-image"},
	{"image inspect sha256:0123456789ab", "not_found", 1, "digest"},
	{"image rm no-such-image", "not_found", 1, "no-such-image"},
	{"image tag no-such-image x", "not_found", 1, "no-such-image"},
	{"image import no-such-file", "not_found", 1, "no-such-file"},
	{"image import -t x GARBAGE", "invalid_input", 1, "GARBAGE"},
	{"image import -e plain GARBAGE", "invalid_input", 1, "has no value"},
	{"image load -i no-such-file", "invalid_input", 1, "no-such-file"},
	{"image load -i GARBAGE", "invalid_input", 1, ""},
	{"image pull UPPER", "invalid_input", 1, "UPPER"},
	{"image pull base --platform linux/arm64", "usage_error", usage, "--platform"},
	{"image pull x --renew", "usage_error", usage, "--renew"},

	// Who is not there.
	{"start nobody", "not_found", 1, `"nobody"`},
	{"start ..", "not_found", 1, `".."`},
	{"start ../../etc", "not_found", 1, "etc"},
	{"start EMPTY", "not_found", 1, `""`},
	{"start ESCAPE", "not_found", 1, `\x1b`},
	{"rename nobody web", "not_found", 1, `"nobody"`},
	{"exec nobody -- true", "not_found", 125, `"nobody"`},
	{"shell nobody", "not_found", 125, `"nobody"`},
	{"attach nobody p1", "not_found", 125, `"nobody"`},

	// What is saved and continued.
	{"create --from-snapshot nothing", "not_found", 1, `"nothing"`},
	{"create --from-snapshot ../x", "invalid_input", 1, "is not valid"},
	{"create --from-snapshot ESCAPE", "invalid_input", 1, `\x1b[2Jx`},
	{"create --from-snapshot EMPTY", "usage_error", usage, "names no snapshot"},
	{"create --from-snapshot s --memory 1G", "usage_error", usage, "exclude each other"},
	{"run --from-snapshot s --image base -- true", "usage_error", usage, "exclude each other"},
	{"sandbox create --from-snapshot s --disk-size 512", "usage_error", usage, "exclude each other"},
	{"create --checkpoint hourly", "invalid_input", 1, `checkpoint "hourly" is not known`},
	{"create --idle-timeout 5 --idle-action explode", "invalid_input", 1, `idle action "explode" is not known`},
	{"create --idle-action stop", "usage_error", usage, "without --idle-timeout"},
	{"run --idle-timeout 5 --idle-action hibernate -- true", "invalid_input", 125, "cannot hibernate"},
	{"create --template-budget none", "usage_error", usage, "is not a size"},
	{"create --template-budget 0", "usage_error", usage, "is not a size"},
	{"stop", "usage_error", usage, "requires at least 1 arg"},
	{"stop --hibernate nobody", "not_found", 1, `"nobody"`},
	{"stop --hibernate --timeout 3 nobody", "usage_error", usage, "exclude each other"},
	{"stop nobody either", "not_found", 1, `"either"`},
	{"hibernate nobody", "not_found", 1, `"nobody"`},
	{"template build --cpus 0", "invalid_input", 1, "0 cpus are too few"},
	{"template build --memory 1", "invalid_input", 1, "outside 128 to"},
	{"template build --accel warp", "invalid_input", 1, `"warp" is not known`},
	{"template build --image no-such-image", "not_found", 1, "no-such-image"},
	{"template rm", "usage_error", usage, "no template is named"},
	{"template rm --all x", "usage_error", usage, "exclude each other"},
	{"template rm EMPTY", "not_found", 1, `""`},
	{"template rm ../..", "not_found", 1, "../.."},
	{"template rm ESCAPE", "not_found", 1, `\x1b[2Jx`},
	{"pool set base", "usage_error", usage, "has no size"},
	{"pool set EMPTY --size 1", "usage_error", usage, "no image is named"},
	{"pool set base --size -1", "invalid_input", 1, "pool size is -1"},
	{"pool set base --size 257", "invalid_input", 1, "pool size is 257"},
	{"pool set base --size 1 --cpus 0", "invalid_input", 1, "0 cpus are too few"},
	{"pool set base --size 1 --memory 1", "invalid_input", 1, "outside 128 to"},
	{"pool drain", "usage_error", usage, "no image is named"},
	{"pool drain EMPTY", "usage_error", usage, "no image is named"},
	{"pool drain base --all", "usage_error", usage, "exclude each other"},
	{"snapshot create nobody", "not_found", 1, `"nobody"`},
	{"snapshot create nobody EMPTY", "usage_error", usage, "name is empty"},
	{"snapshot inspect nothing", "not_found", 1, `"nothing"`},
	{"snapshot inspect ../../etc", "not_found", 1, "etc"},
	{"snapshot inspect EMPTY", "not_found", 1, `""`},
	{"snapshot rm nothing", "not_found", 1, `"nothing"`},
	{"snapshot rm ..", "not_found", 1, `".."`},
	{"snapshot rm", "usage_error", usage, "requires at least 1 arg"},
	{"snapshot save nothing -o x", "not_found", 1, `"nothing"`},
	{"snapshot save nothing", "usage_error", usage, "--json and a snapshot on standard output"},
	{"snapshot load no-such-file", "invalid_input", 1, "no-such-file"},
	{"snapshot load GARBAGE", "invalid_input", 1, ""},
	{"snapshot load -", "invalid_input", 1, ""},
	{"snapshot load GARBAGE --name UPPER", "invalid_input", 1, `"UPPER" is not valid`},
	{"snapshot load GARBAGE --digest sha256:xyz", "invalid_input", 1, ""},
	{"fork nobody", "not_found", 1, `"nobody"`},
	{"fork -n 0 nobody", "invalid_input", 1, "fork into 0 children"},
	{"fork -n 257 nobody", "invalid_input", 1, "fork into 257 children"},
	{"fork -n many nobody", "usage_error", usage, "invalid argument"},
	{"fork --at -1 nobody", "invalid_input", 1, "step -1 is negative"},
	{"checkpoint nobody x", "not_found", 1, `"nobody"`},
	{"history nobody", "not_found", 1, `"nobody"`},
	{"rewind nobody 1", "not_found", 1, `"nobody"`},
	{"rewind nobody", "usage_error", usage, "accepts 2 arg"},
	{"rewind nobody first", "usage_error", usage, `"first" is not a step`},
	{"rewind nobody ESCAPE", "usage_error", usage, `\x1b[2Jx`},
	{"bench -n 0", "invalid_input", 1, "0 samples are outside"},
	{"bench -n 10001", "invalid_input", 1, "outside 1 to 10000"},
	{"bench --memory 1", "invalid_input", 1, "outside 128 to"},
	{"bench --image no-such-image", "not_found", 1, "no-such-image"},
	{"doctor --image base", "usage_error", usage, "without --fork"},
	{"doctor --fork --image no-such-image", "not_found", 1, "no-such-image"},
	{"diff nobody", "not_found", 1, `"nobody"`},
	{"diff nobody 1 2 3", "usage_error", usage, "between 1 and 3"},
	{"diff nobody now", "usage_error", usage, `"now" is not a step`},
	{"diff nobody --export x.tar", "not_found", 1, `"nobody"`},
	{"diff nobody --export", "usage_error", usage, "--json and an export"},
	{"diff nobody --export=", "usage_error", usage, "has no name"},
	{"diff nobody --export x --format zip", "invalid_input", 1, `format "zip" is not known`},
	{"diff nobody --export x --path srv", "invalid_input", 1, `path "srv" is not absolute`},
	{"diff nobody --format tar", "usage_error", usage, "without --export"},
	{"diff nobody -p --export x", "usage_error", usage, "exclude each other"},

	// Command lines.
	{"exec", "usage_error", usage, "requires at least 1 arg"},
	{"exec nobody", "usage_error", usage, "no command is given"},
	{"exec nobody --", "usage_error", usage, "no command is given"},
	{"exec --shell fish nobody -- true", "invalid_input", 125, `shell "fish" is not known`},
	{"exec -t nobody -- true", "usage_error", usage, "--tty and --json"},
	{"exec nobody --nonsense -- true", "usage_error", usage, "unknown flag"},
	{"rm", "usage_error", usage, "no sandbox is named"},
	{"rm --all web", "usage_error", usage, "exclude each other"},
	{"cp a b", "usage_error", usage, "neither"},
	{"cp a:/x b:/y", "invalid_input", 1, "sandbox to sandbox"},
	{"cp a: b", "usage_error", usage, "a path is empty"},
	{"cp nobody:/x -", "usage_error", usage, "tar stream"},
	{"logs --tail -1 nobody", "invalid_input", 1, "negative"},
	{"create extra", "usage_error", usage, "unknown command"},
	{"nonsense", "usage_error", usage, "unknown command"},
	{"image nonsense", "usage_error", usage, "unknown command"},
	{"create --nonsense", "usage_error", usage, "unknown flag"},
	{"create --name", "usage_error", usage, "flag needs an argument"},
	{"setup --kernel no-such-file", "invalid_input", 1, "no-such-file"},
	{"sandbox create --backend firecracker", "invalid_input", 1, `backend "firecracker" does not exist`},
	{"sandbox create --qemu-machine q35", "invalid_input", 1, `machine "q35" cannot be chosen`},
	{"sandbox create --mount relative", "invalid_input", 1, "relative"},
	{"sandbox create --mount /:host", "invalid_input", 1, "host"},
	{"sandbox file upload nobody no-such-file /x", "not_found", 1, `"nobody"`},
	{"sandbox list --status asleep", "invalid_input", 1, `status "asleep" is not known`},
	{"sandbox list --all --status running", "usage_error", usage, "exclude each other"},
	{"sandbox snapshot create nobody", "not_found", 1, `"nobody"`},
	{"sandbox snapshot create nobody --snapshot-type half", "invalid_input", 1, `snapshot type "half" is not known`},
	{"sandbox snapshot create nobody --live-only", "invalid_input", 1, "without halting"},
	{"sandbox snapshot restore nothing", "not_found", 1, `"nothing"`},
	{"sandbox snapshot restore EMPTY", "usage_error", usage, "no snapshot is named"},
	{"sandbox snapshot delete nothing", "not_found", 1, `"nothing"`},
	{"supervise nonsense", "", 1, ""},
}

// expand makes arguments of a badInput's words.
func (b badInput) expand() []string {
	var args []string
	for _, w := range strings.Split(b.args, " ") {
		args = append(args, badWords.Replace(w))
	}
	return args
}

// TestBadInputs wants each to be refused in words, and nothing to be left.
func TestBadInputs(t *testing.T) {
	program, err := exec.LookPath("smolvm") // this test's own; see TestMain
	if err != nil {
		t.Fatal(err)
	}
	home, work := filepath.Join(t.TempDir(), "state"), t.TempDir()
	if err := os.WriteFile(filepath.Join(work, "GARBAGE"), []byte(strings.Repeat("no tar", 1000)), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, b := range badInputs {
		t.Run(b.args, func(t *testing.T) {
			args := b.expand()
			if b.code != "" {
				args = append([]string{"--json"}, args...)
			}
			cmd := exec.Command(program, args...)
			cmd.Dir = work
			cmd.Env = append(os.Environ(), "SMOLVM_HOME="+home)
			var out, stderr bytes.Buffer
			cmd.Stdout, cmd.Stderr = &out, &stderr
			cmd.Run()
			if got := cmd.ProcessState.ExitCode(); got != b.exit {
				t.Errorf("exit status %d, want %d\n%s%s", got, b.exit, out.String(), stderr.String())
			}
			if b.code != "" {
				b.checkEnvelope(t, out.Bytes())
			}
			if left := lasting(home); left != "" {
				t.Errorf("left behind:%s", left)
			}
		})
	}
}

func (b badInput) checkEnvelope(t *testing.T, out []byte) {
	t.Helper()
	var e struct {
		OK       bool
		ExitCode int `json:"exit_code"`
		Error    struct{ Code, Message string }
	}
	if err := json.Unmarshal(out, &e); err != nil {
		t.Fatalf("not one JSON object: %v\n%s", err, out)
	}
	if e.OK || e.ExitCode != b.exit || e.Error.Code != b.code || !strings.Contains(e.Error.Message, b.text) {
		t.Errorf("refused with %+v, want code %s and %q", e, b.code, b.text)
	}
	if e.Error.Message == "" {
		t.Error("refused without a word")
	}
}
