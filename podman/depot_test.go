package podman

import (
	"bytes"
	"context"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/registry"

	"github.com/fluxgate/fluxgate/router"
)

// TestDepotKeepsImages has images of both forms go into a registry and come
// back: each has the ID that it had, and what may be is compressed well.
func TestDepotKeepsImages(t *testing.T) {
	n := connect(t)
	p := NewPool(n)
	store := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	must(t, p.UseDepot(Depot{
		Handler: store, User: "node", Password: "secret",
		Layers: func(context.Context, string, string) ([]Layer, error) { return nil, nil },
	}))
	t.Cleanup(p.CloseDepot)
	site, err := n.Build(t.Context(), "site", router.Source{Kind: router.SourceStatic, Path: "."}, files(t, "index.html", "hello"), io.Discard)
	must(t, err)
	for app, tt := range map[string]struct{ image, layers string }{
		"app":  {appImage(t, n), "application/vnd.oci.image.layer.v1.tar+zstd"},
		"site": {site, "application/vnd.docker.image.rootfs.diff.tar.gzip"},
	} {
		must(t, p.deposit(t.Context(), n, app, tt.image))
		w := httptest.NewRecorder()
		store.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/v2/"+app+"/manifests/"+DepotTag(tt.image), nil))
		if !strings.Contains(w.Body.String(), tt.layers) || !bytes.Contains(w.Body.Bytes(), []byte(tt.image)) {
			t.Errorf("%s went as %s", app, w.Body)
		}
		must(t, n.removeImage(t.Context(), tt.image))
		id, err := p.depot.pull(t.Context(), n, app+":"+DepotTag(tt.image), io.Discard)
		if err != nil || id != tt.image {
			t.Errorf("%s came back as %s, %v; it was %s", app, id, err, tt.image)
		}
	}
}
