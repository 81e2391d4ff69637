package control

import (
	"encoding/json"
	"fmt"
	"io"
)

// WriteEvent writes a server-sent event (HTML standard, section 9.2): its name,
// and data as JSON.
func WriteEvent(w io.Writer, name string, data any) error {
	b, err := json.Marshal(data)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(w, "event: %s\ndata: %s\n\n", name, b)
	return err
}
