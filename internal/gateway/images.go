package gateway

import (
	"context"
	"net/http"

	"github.com/smolvm/smolvm"
	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/apikey"
	"github.com/smolvm/smolvm/internal/image"
	"github.com/smolvm/smolvm/internal/store"
)

const tagImages = "Images"

// ImageList lists images. One with several names is listed under each.
type ImageList struct {
	Images []api.Image `json:"images" nullable:"false"`
}

// PullImage says what image to pull.
type PullImage struct {
	Image    string `json:"image" minLength:"1" maxLength:"500"`
	Platform string `json:"platform,omitempty"` // such as "linux/amd64"; left out: the host's
}

// Freed says what a removal of an image gave back.
type Freed struct {
	Bytes int64 `json:"bytes"` // on disk
}

func (s *Server) imageRoutes() {
	route(s, op{
		ID: "list-images", Method: http.MethodGet, Path: "/v1/images", Scope: apikey.Read, Tag: tagImages,
		Summary: "List images",
	}, s.listImages)
	route(s, op{
		ID: "remove-image", Method: http.MethodDelete, Path: "/v1/images/{ref}", Scope: apikey.Admin, Tag: tagImages,
		Summary: "Remove a name of an image, and with the last one the image",
	}, s.removeImage)
	stream(s, op{
		ID: "pull-image", Method: http.MethodPost, Path: "/v1/images/pull", Scope: apikey.Admin, Tag: tagImages,
		Summary: "Pull an image from its registry",
		Answers: madeAnswers[api.Image](s), Errors: []int{404},
	}, s.pullImage)
	route(s, op{
		ID: "collect-garbage", Method: http.MethodPost, Path: "/v1/gc", Scope: apikey.Admin, Tag: tagImages,
		Summary: "Remove what no live sandbox owns",
	}, s.gc)
}

// images opens the image store. The SDK has none: it links no registries.
func (s *Server) images() (*image.Images, error) {
	st, err := store.Open(s.opts.Client.Home)
	if err != nil {
		return nil, err
	}
	return image.Open(st)
}

func describeImage(i image.Image) api.Image {
	return api.Image{Ref: i.Ref, Digest: i.Digest, Platform: i.Platform, Created: i.Created, SizeBytes: i.SizeBytes, RootFSBytes: i.RootFSBytes}
}

func (s *Server) listImages(ctx context.Context, _ *struct{}) (*reply[ImageList], error) {
	im, err := s.images()
	if err != nil {
		return nil, err
	}
	list, err := im.List(ctx)
	out := ImageList{Images: []api.Image{}}
	for _, i := range list {
		out.Images = append(out.Images, describeImage(i))
	}
	return &reply[ImageList]{out}, err
}

type imageRef struct {
	Ref string `path:"ref" maxLength:"500" doc:"name of the image, or the beginning of its digest; its slashes are written %2F"`
}

func (s *Server) removeImage(ctx context.Context, in *imageRef) (*reply[Freed], error) {
	im, err := s.images()
	if err != nil {
		return nil, err
	}
	if err := im.Remove(ctx, in.Ref); err != nil {
		return nil, err
	}
	sandboxes, err := s.client().List(ctx, smolvm.ListOptions{})
	if err != nil {
		return nil, err
	}
	snapshots, err := s.client().Snapshots(ctx)
	if err != nil {
		return nil, err
	}
	freed, err := im.GC(ctx, image.UsedBy(sandboxes, snapshots))
	return &reply[Freed]{Freed{freed}}, err
}

type pullInput struct{ Body PullImage }

func (s *Server) pullImage(in *pullInput, w http.ResponseWriter, r *http.Request) error {
	im, err := s.images()
	if err != nil {
		return err
	}
	return making(w, r, http.StatusOK, func(tell func(string, int64, int64)) (any, MadeLine, error) {
		report := func(p image.Progress) { tell(p.Step, p.Done, p.Total) }
		var i image.Image
		if in.Body.Image == api.DefaultImage {
			i, err = im.EnsureBase(r.Context(), image.BaseOptions{Progress: report})
		} else {
			i, err = im.Pull(r.Context(), in.Body.Image, image.PullOptions{Platform: in.Body.Platform, Progress: report})
		}
		out := describeImage(i)
		return out, MadeLine{Image: &out}, err
	})
}

type gcInput struct {
	DryRun bool `query:"dry_run" doc:"only say what would be removed"`
}

func (s *Server) gc(ctx context.Context, in *gcInput) (*reply[api.Collected], error) {
	c, err := s.client().GC(ctx, in.DryRun)
	return &reply[api.Collected]{c}, err
}
