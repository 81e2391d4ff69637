package agents

import (
	"encoding/json"
	"fmt"
	"strconv"
)

// nodeVersion is for agents that are JavaScript: the default image's Node is too old
// for them. This one has long-term support.
const nodeVersion = "24.21.0"

// Keys that several agents take.
func anthropicKey() Key { return Key{"ANTHROPIC_API_KEY", []string{"api.anthropic.com"}} }
func openAIKey() Key    { return Key{"OPENAI_API_KEY", []string{"api.openai.com"}} }
func geminiKey() Key    { return Key{"GEMINI_API_KEY", []string{"generativelanguage.googleapis.com"}} }
func routerKey() Key    { return Key{"OPENROUTER_API_KEY", []string{"openrouter.ai"}} }

func all() []Preset { return []Preset{claude(), codex(), opencode(), pi()} }

func claude() Preset {
	return Preset{
		Name: "claude", Title: "Claude Code", Version: "2.1.331",
		packages: []string{"@anthropic-ai/claude-code-linux-{arch}@{version}"},
		programs: map[string]string{"claude": "@anthropic-ai/claude-code-linux-{arch}/claude"},
		Keys:     []Key{anthropicKey(), {"CLAUDE_CODE_OAUTH_TOKEN", anthropicKey().Hosts}},
		Env: map[string]string{
			"DISABLE_AUTOUPDATER":                      "1",
			"CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1", // it would ask hosts that policy denies
		},
		files: claudeFiles,
	}
}

// claudeFiles answer the questions of a first start. The sandbox is the fence, so
// permission is not asked for again.
func claudeFiles(s Start) []File {
	approved := []string{}
	if key := s.Keys["ANTHROPIC_API_KEY"]; key != "" {
		approved = append(approved, key[max(0, len(key)-20):]) // it remembers a key by its end
	}
	return []File{
		{".claude.json", asJSON(map[string]any{
			"hasCompletedOnboarding":        true,
			"bypassPermissionsModeAccepted": true,
			"customApiKeyResponses":         map[string]any{"approved": approved, "rejected": []string{}},
			"projects": map[string]any{s.Project: map[string]any{
				"hasTrustDialogAccepted": true, "hasCompletedProjectOnboarding": true,
			}},
		})},
		{".claude/settings.json", asJSON(map[string]any{
			"permissions":                       map[string]any{"defaultMode": "bypassPermissions"},
			"skipDangerousModePermissionPrompt": true,
		})},
	}
}

func codex() Preset {
	const program = "@openai/codex/vendor/{machine}-unknown-linux-musl/"
	return Preset{
		Name: "codex", Title: "Codex", Version: "0.169.0",
		packages: []string{"@openai/codex@{version}-linux-{arch}"},
		programs: map[string]string{"codex": program + "bin/codex", "rg": program + "codex-path/rg"},
		Keys:     []Key{openAIKey()},
		files:    codexFiles,
	}
}

// codexFiles have it log in with the key's placeholder, and work without a sandbox of
// its own: it is in one.
func codexFiles(s Start) []File {
	files := []File{{".codex/config.toml", fmt.Sprintf(`approval_policy = "never"
sandbox_mode = "danger-full-access"
check_for_update_on_startup = false

[analytics]
enabled = false

[projects.%s]
trust_level = "trusted"
`, strconv.Quote(s.Project))}}
	if key := s.Keys["OPENAI_API_KEY"]; key != "" {
		files = append(files, File{".codex/auth.json", asJSON(map[string]string{"OPENAI_API_KEY": key})})
	}
	return files
}

func opencode() Preset {
	return Preset{
		Name: "opencode", Title: "opencode", Version: "1.18.33",
		packages: []string{"opencode-linux-{arch}@{version}"},
		programs: map[string]string{"opencode": "opencode-linux-{arch}/bin/opencode"},
		Keys:     []Key{anthropicKey(), openAIKey(), geminiKey(), routerKey()},
		Env: map[string]string{
			"OPENCODE_DISABLE_AUTOUPDATE":      "1",
			"OPENCODE_DISABLE_LSP_DOWNLOAD":    "1",
			"OPENCODE_DISABLE_MODELS_FETCH":    "1", // it has a list of models in it
			"OPENCODE_DISABLE_DEFAULT_PLUGINS": "1", // they come from npm, at each start
		},
		files: func(Start) []File {
			return []File{{".config/opencode/opencode.json", asJSON(map[string]any{
				"autoupdate": false, "share": "disabled", "permission": "allow",
			})}}
		},
	}
}

func pi() Preset {
	return Preset{
		Name: "pi", Title: "pi", Version: "0.87.1",
		packages: []string{"@earendil-works/pi-coding-agent@{version}", "node-linux-{arch}@" + nodeVersion},
		programs: map[string]string{
			"pi":   "@earendil-works/pi-coding-agent/dist/bundle/cli.js",
			"node": "node-linux-{arch}/bin/node",
		},
		Keys: []Key{anthropicKey(), openAIKey(), geminiKey(), routerKey()},
		Env: map[string]string{
			"PI_SKIP_VERSION_CHECK": "1",
			"PI_TELEMETRY":          "0",
		},
		files: func(Start) []File {
			return []File{{".pi/agent/settings.json", asJSON(map[string]any{"quietStartup": true})}}
		},
	}
}

// asJSON writes what always can be written.
func asJSON(v any) string {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		panic(err)
	}
	return string(b) + "\n"
}
