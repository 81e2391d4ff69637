// Package store names every file of the state directory and gives the few ways
// to touch them safely: whole-file replacement, locks that die with their
// holder, and a place for what is half made.
//
//	s, err := store.Open("")            // $SMOLVM_HOME, else the XDG state directory
//	dir := s.Sandbox(id)                // one sandbox's directory
//	err = store.WriteJSON(dir.State(), v)
//
// Layout:
//
//	version                 schema version of this directory
//	sandboxes/ID/           one sandbox; see Sandbox
//	names/NAME              symbolic link to the id that holds the name
//	images/                 content-addressed images; owned by internal/image
//	kernels/                kernels and initramfs; owned by internal/image
//	templates/KEY/          saved sandboxes that new ones continue; see PointDir
//	snapshots/NAME/         saved sandboxes of users; see PointDir
//	pools/                  sandboxes that wait to be taken
//	key                     authenticates what this installation saved
//	api.sock, api.lock      the HTTP API's socket and who serves there
//	api-keys.json           hashes of the HTTP API's keys; owned by internal/apikey
//	gateway.log             what a gateway says that the Python package started
//	tmp/                    what is half made; each entry is locked while its maker lives
package store

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/smolvm/smolvm/api"
)

// Version is the schema version of the state directory.
const Version = 1

// EnvHome is the environment variable that moves the state directory.
const EnvHome = "SMOLVM_HOME"

// Store is an opened state directory. It holds no descriptors and may be copied.
type Store struct{ root string }

// Open opens, and where needed makes, the state directory. An empty root means
// $SMOLVM_HOME, else $XDG_STATE_HOME/smolvm, else ~/.local/state/smolvm.
// A directory written by a newer smolvm is refused with class Conflict.
func Open(root string) (Store, error) {
	root, err := resolve(root)
	if err != nil {
		return Store{}, err
	}
	s := Store{root}
	for _, d := range []string{root, s.Sandboxes(), s.Names(), s.Images(), s.Kernels(), s.Templates(), s.Snapshots(), s.Pools(), s.Tmp()} {
		// 0700: disks and consoles of sandboxes are their owner's business alone.
		if err := os.MkdirAll(d, 0o700); err != nil {
			return Store{}, api.Errorf(api.Unavailable, "make state directory: %w", err).
				WithRecovery("Set %s to a directory you can write to.", EnvHome)
		}
	}
	return s, s.checkVersion()
}

func resolve(root string) (string, error) {
	if root == "" {
		root = os.Getenv(EnvHome)
	}
	if root == "" {
		if x := os.Getenv("XDG_STATE_HOME"); filepath.IsAbs(x) {
			root = filepath.Join(x, "smolvm")
		}
	}
	if root == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return "", api.Errorf(api.Unavailable, "find state directory: %w", err).
				WithRecovery("Set %s.", EnvHome)
		}
		root = filepath.Join(home, ".local", "state", "smolvm")
	}
	return filepath.Abs(root)
}

func (s Store) checkVersion() error {
	path := filepath.Join(s.root, "version")
	b, err := os.ReadFile(path)
	if os.IsNotExist(err) {
		return s.writeVersion(path)
	}
	if err != nil {
		return api.Errorf(api.Unavailable, "read state version: %w", err)
	}
	v, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil || v != Version {
		return api.Errorf(api.Conflict, "state directory %s has version %q, this smolvm knows version %d",
			s.root, strings.TrimSpace(string(b)), Version).
			WithRecovery("Use the smolvm that wrote it, or set %s to another directory.", EnvHome)
	}
	return nil
}

// writeVersion makes the version file by way of tmp/, which is swept where its
// maker died half-way.
func (s Store) writeVersion(path string) error {
	c, err := s.Scratch("version")
	if err != nil {
		return err
	}
	defer c.Close()
	if err := WriteFile(c.Path("version"), []byte(strconv.Itoa(Version)+"\n"), 0o600); err != nil {
		return err
	}
	if err := os.Rename(c.Path("version"), path); err != nil {
		return err
	}
	return SyncDir(s.root)
}

// Root returns the state directory itself.
func (s Store) Root() string { return s.root }

// Sandboxes returns the directory that holds one directory for each sandbox.
func (s Store) Sandboxes() string { return filepath.Join(s.root, "sandboxes") }

// Names returns the directory of name links.
func (s Store) Names() string { return filepath.Join(s.root, "names") }

// Images returns the directory of the image store.
func (s Store) Images() string { return filepath.Join(s.root, "images") }

// Kernels returns the directory of kernels and initramfs files.
func (s Store) Kernels() string { return filepath.Join(s.root, "kernels") }

// Templates returns the directory of templates, each a PointDir.
func (s Store) Templates() string { return filepath.Join(s.root, "templates") }

// ListTemplates returns the directories of the templates that are whole.
func (s Store) ListTemplates() []PointDir {
	manifests, _ := filepath.Glob(s.Template("*").Manifest())
	dirs := make([]PointDir, len(manifests))
	for i, path := range manifests {
		dirs[i] = PointDir(filepath.Dir(path))
	}
	return dirs
}

// Template returns the directory of one template.
func (s Store) Template(key string) PointDir { return PointDir(filepath.Join(s.Templates(), key)) }

// Snapshots returns the directory of snapshots, each a PointDir.
func (s Store) Snapshots() string { return filepath.Join(s.root, "snapshots") }

// Snapshot returns the directory of one snapshot.
func (s Store) Snapshot(name string) PointDir { return PointDir(filepath.Join(s.Snapshots(), name)) }

// Pools returns the directory of pools.
func (s Store) Pools() string { return filepath.Join(s.root, "pools") }

// PoolMembers holds an empty file for each member of a pool that waits, named by
// its id.
func (s Store) PoolMembers(key string) string { return filepath.Join(s.Pools(), key) }

// Keeper is the socket of the process that keeps the pools full, and KeeperLock
// what it holds.
func (s Store) Keeper() string { return filepath.Join(s.Pools(), "keeper.sock") }

// KeeperLock is held by the keeper for as long as it lives.
func (s Store) KeeperLock() string { return filepath.Join(s.Pools(), "keeper.lock") }

// PoolSizes says what pools there are to be.
func (s Store) PoolSizes() string { return filepath.Join(s.Pools(), "pools.json") }

// Key is the file of the key that authenticates what was saved.
func (s Store) Key() string { return filepath.Join(s.root, "key") }

// Gateway is the socket of the HTTP API for this user, and GatewayLock what the
// server that listens there holds.
func (s Store) Gateway() string { return filepath.Join(s.root, "api.sock") }

// GatewayLock is held by who serves at Gateway for as long as it lives.
func (s Store) GatewayLock() string { return filepath.Join(s.root, "api.lock") }

// APIKeys is the file of the keys of the HTTP API; owned by internal/apikey.
func (s Store) APIKeys() string { return filepath.Join(s.root, "api-keys.json") }

// Tmp returns the directory for what is half made.
func (s Store) Tmp() string { return filepath.Join(s.root, "tmp") }

// Sandbox returns the directory of one sandbox.
func (s Store) Sandbox(id string) SandboxDir { return SandboxDir(filepath.Join(s.Sandboxes(), id)) }

// SandboxDir is the path of one sandbox's directory.
type SandboxDir string

// ID returns the sandbox's id.
func (d SandboxDir) ID() string { return filepath.Base(string(d)) }

// Spec is what was asked for: image, sizes, environment, labels.
func (d SandboxDir) Spec() string { return d.file("spec.json") }

// State is what was last known of the sandbox.
func (d SandboxDir) State() string { return d.file("state.json") }

// Lock is held by the supervisor for as long as it lives, and only by it.
func (d SandboxDir) Lock() string { return d.file("lock") }

// Socket is the supervisor's API.
func (d SandboxDir) Socket() string { return d.file("api.sock") }

// Parts holds the files of disk and saved memory. Their names are unique, those
// that are not written any more may be links to other directories' files.
func (d SandboxDir) Parts() string { return d.file("parts") }

// History holds one manifest for each step.
func (d SandboxDir) History() string { return d.file("history") }

// Step is the manifest of one step.
func (d SandboxDir) Step(n int) string {
	return filepath.Join(d.History(), fmt.Sprintf("%06d.json", n))
}

// Steps returns the manifests of all steps, in their order.
func (d SandboxDir) Steps() []string {
	list, _ := filepath.Glob(filepath.Join(d.History(), "*.json")) // sorted
	return list
}

// Hibernated is the manifest of what start continues.
func (d SandboxDir) Hibernated() string { return d.file("hibernated.json") }

// Log is the supervisor's own log.
func (d SandboxDir) Log() string { return d.file("supervisor.log") }

// NetworkLog is the directory of the network's record; owned by internal/netlog.
func (d SandboxDir) NetworkLog() string { return d.file("netlog") }

// CA is the key of the sandbox's certificate authority; owned by
// internal/intercept. It belongs in no saved point.
func (d SandboxDir) CA() string { return d.file("ca.pem") }

// VM is the directory of the VMM's sockets, console and messages.
func (d SandboxDir) VM() string { return d.file("vm") }

// PointDir is the path of the directory of a saved sandbox.
type PointDir string

// Manifest says what it is made of.
func (d PointDir) Manifest() string { return filepath.Join(string(d), "point.json") }

// Lock is held by who makes, uses or removes a template.
func (d PointDir) Lock() string { return string(d) + lockSuffix }

// Parts holds the files that the manifest names.
func (d PointDir) Parts() string { return filepath.Join(string(d), "parts") }

func (d SandboxDir) file(name string) string { return filepath.Join(string(d), name) }
