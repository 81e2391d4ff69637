package api

import "time"

// Image is an image that sandboxes can be made of.
type Image struct {
	Ref         string    `json:"ref,omitempty"` // its name; empty for one without
	Digest      string    `json:"digest"`        // of the manifest, "sha256:..."
	Platform    string    `json:"platform"`      // such as "linux/amd64"
	Created     time.Time `json:"created"`       // as the image says
	SizeBytes   int64     `json:"size_bytes"`
	RootFSBytes int64     `json:"rootfs_bytes"` // unpacked
}
