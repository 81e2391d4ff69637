package qemu

import (
	"encoding/json"
	"fmt"

	"github.com/smolvm/smolvm/internal/vmm"
)

// blockNode is one node of QEMU's block layer, as -blockdev and blockdev-add take
// it: a file, or a format on top of a file.
type blockNode struct {
	Driver       string          `json:"driver"`
	Name         string          `json:"node-name"`
	ReadOnly     bool            `json:"read-only,omitempty"`
	Discard      string          `json:"discard,omitempty"`
	DetectZeroes string          `json:"detect-zeroes,omitempty"`
	Filename     string          `json:"filename,omitempty"` // of a file
	File         string          `json:"file,omitempty"`     // of a format: the name of its file's node
	Backing      json.RawMessage `json:"backing,omitempty"`  // of qcow2: the name of a node, or null
}

func (n blockNode) json() string {
	b, err := json.Marshal(n)
	if err != nil {
		panic(err) // strings and booleans always encode
	}
	return string(b)
}

// topNode is the name of the node that a disk begins with.
func topNode(disk int) string { return fmt.Sprint("node", disk) }

// diskNodes are the nodes of a disk: each after those that it needs.
func diskNodes(disk int, d vmm.Disk) []blockNode {
	var nodes []blockNode
	below := ""
	for i := len(d.Backing) - 1; i >= 0; i-- {
		l := d.Backing[i]
		name := fmt.Sprintf("%d-%d", disk, i)
		nodes = append(nodes, layerNodes(name, vmm.Disk{Path: l.Path, Format: l.Format, ReadOnly: true}, below)...)
		below = "node" + name
	}
	return append(nodes, layerNodes(fmt.Sprint(disk), d, below)...)
}

// layerNodes are the two nodes of one file of a disk; below is the node under it,
// empty for none.
func layerNodes(name string, d vmm.Disk, below string) []blockNode {
	file := blockNode{Driver: "file", Name: "file" + name, Filename: d.Path, ReadOnly: d.ReadOnly}
	node := blockNode{Driver: string(d.Format), Name: "node" + name, File: file.Name, ReadOnly: d.ReadOnly}
	if !d.ReadOnly {
		// What the guest discards or fills with zeroes becomes a hole again, or its
		// disk would only ever grow.
		file.Discard, node.Discard, node.DetectZeroes = "unmap", "unmap", "unmap"
	}
	if d.Format == vmm.Qcow2 {
		// Always said, or QEMU opens the file that the image names.
		node.Backing = json.RawMessage("null")
		if below != "" {
			node.Backing, _ = json.Marshal(below)
		}
	}
	return []blockNode{file, node}
}
