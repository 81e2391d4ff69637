package gateway

import (
	"context"
	"io"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"github.com/smolvm/smolvm"
	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/apikey"
)

// SnapshotList lists snapshots, oldest first.
type SnapshotList struct {
	Snapshots []api.Snapshot `json:"snapshots" nullable:"false"`
}

func (s *Server) snapshotRoutes() {
	route(s, op{
		ID: "list-snapshots", Method: http.MethodGet, Path: "/v1/snapshots", Scope: apikey.Read, Tag: tagSaved,
		Summary: "List snapshots, oldest first",
	}, s.listSnapshots)
	route(s, op{
		ID: "get-snapshot", Method: http.MethodGet, Path: "/v1/snapshots/{name}", Scope: apikey.Read, Tag: tagSaved,
		Summary: "Describe a snapshot, after all of it was verified",
	}, s.getSnapshot)
	route(s, op{
		ID: "remove-snapshot", Method: http.MethodDelete, Path: "/v1/snapshots/{name}", Scope: apikey.Manage, Tag: tagSaved,
		Summary: "Remove a snapshot",
	}, s.removeSnapshot)
	stream(s, op{
		ID: "save-snapshot", Method: http.MethodGet, Path: "/v1/snapshots/{name}/archive", Scope: apikey.Manage, Tag: tagSaved,
		Summary: "Read a snapshot as one file", Answers: map[string]*huma.Schema{typeBytes: nil},
	}, s.saveSnapshot)
	stream(s, op{
		ID: "load-snapshot", Method: http.MethodPost, Path: "/v1/snapshots/archive", Scope: apikey.Manage, Tag: tagSaved,
		Summary: "Take in a snapshot's file", Status: http.StatusCreated, RawBody: typeBytes,
		Answers: map[string]*huma.Schema{typeJSON: schemaOf[api.Snapshot](s)}, Errors: []int{409},
	}, s.loadSnapshot)
}

func (s *Server) listSnapshots(ctx context.Context, _ *struct{}) (*reply[SnapshotList], error) {
	list, err := s.client().Snapshots(ctx)
	return &reply[SnapshotList]{SnapshotList{filled(list)}}, err
}

type snapshotName struct {
	Name string `path:"name" maxLength:"63" doc:"name of the snapshot"`
}

func (s *Server) getSnapshot(ctx context.Context, in *snapshotName) (*reply[api.Snapshot], error) {
	snap, err := s.client().GetSnapshot(ctx, in.Name)
	return &reply[api.Snapshot]{snap}, err
}

func (s *Server) removeSnapshot(ctx context.Context, in *snapshotName) (*done, error) {
	return nil, s.client().RemoveSnapshot(ctx, in.Name)
}

func (s *Server) saveSnapshot(in *snapshotName, w http.ResponseWriter, r *http.Request) error {
	return writing(w, r, typeBytes, func(out io.Writer) error { return s.client().SaveSnapshot(r.Context(), in.Name, out) })
}

type loadInput struct {
	Name     string `query:"name" maxLength:"63" doc:"left out: the one it was saved under"`
	Digest   string `query:"digest" maxLength:"80" doc:"what vouches for a file of another installation"`
	DiskOnly bool   `query:"disk_only" doc:"leave the memory behind"`
}

func (s *Server) loadSnapshot(in *loadInput, w http.ResponseWriter, r *http.Request) error {
	snap, err := s.client().LoadSnapshot(r.Context(), r.Body, smolvm.LoadSnapshot(*in))
	if err != nil {
		return err
	}
	return answerJSON(w, http.StatusCreated, snap)
}
