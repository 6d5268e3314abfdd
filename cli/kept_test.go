package cli

import (
	"maps"
	"testing"

	"github.com/fluxgate/fluxgate/podman"
	"github.com/fluxgate/fluxgate/podman/registry"
	"github.com/fluxgate/fluxgate/router"
)

// TestKeptImages has the registry keep the images of the releases that are
// kept, and no others of an app.
func TestKeptImages(t *testing.T) {
	st := router.AppState{App: router.App{Name: "app", Owner: "me", Next: 1, Policy: router.DefaultPolicy()}, Version: 1}
	want := map[string]bool{}
	for i := range router.KeepReleases + 5 {
		image := "sha256:" + string(rune('a'+i))
		st.App.Current = st.AddRelease(router.Release{Image: image, Run: router.DefaultRun()})
		if i >= 5 {
			want[podman.DepotTag(image)] = true
		}
	}
	g := &gatewayProcess{catalog: router.NewCatalog()}
	g.catalog.Apply(st)
	for repository, want := range map[string]registry.Keep{
		"app": {Tags: want}, "gone": {Tags: map[string]bool{}}, "team/tool": {All: true},
	} {
		got, err := g.keptImages(repository)
		if err != nil || got.All != want.All || !maps.Equal(got.Tags, want.Tags) {
			t.Errorf("%s: %+v, %v; want %+v", repository, got, err, want)
		}
	}
}
