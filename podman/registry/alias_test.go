package registry_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/opencontainers/go-digest"
	spec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/fluxgate/fluxgate/podman/registry"
)

// sha512Image pushes an image, and an index of it, all by SHA-512 digests.
func (r *rig) sha512Image(repository string) (img, index, layer digest.Digest) {
	r.t.Helper()
	upload := func(content []byte) spec.Descriptor {
		d := digest.SHA512.FromBytes(content)
		at := r.want(202, "POST", "/v2/"+repository+"/blobs/uploads/", nil).Header.Get("Location")
		sep := "?"
		if bytes.ContainsRune([]byte(at), '?') {
			sep = "&"
		}
		r.want(201, "PUT", at+sep+"digest="+d.String(), content)
		return spec.Descriptor{Digest: d, Size: int64(len(content))}
	}
	put := func(kind types.MediaType, what any) digest.Digest {
		text, err := json.Marshal(what)
		if err != nil {
			r.t.Fatal(err)
		}
		d := digest.SHA512.FromBytes(text)
		path := "/v2/" + repository + "/manifests/" + d.String()
		r.want(400, "PUT", path, append(text, ' '), "Content-Type", string(kind))
		resp := r.want(201, "PUT", path, text, "Content-Type", string(kind))
		if got := resp.Header.Get("Docker-Content-Digest"); got != d.String() {
			r.t.Errorf("it is named %s, not %s", got, d)
		}
		if back, _ := io.ReadAll(r.want(200, "GET", resp.Header.Get("Location"), nil, "Accept", string(kind)).Body); !bytes.Equal(back, text) {
			r.t.Errorf("%s came back as %s", text, back)
		}
		return d
	}
	config, blob := upload([]byte(`{"os":"linux"}`)), upload([]byte("a layer of "+repository))
	config.MediaType, blob.MediaType = spec.MediaTypeImageConfig, spec.MediaTypeImageLayer
	m := spec.Manifest{MediaType: spec.MediaTypeImageManifest, Config: config, Layers: []spec.Descriptor{blob}}
	m.SchemaVersion = 2
	img = put(types.OCIManifestSchema1, m)
	list := spec.Index{MediaType: spec.MediaTypeImageIndex, Manifests: []spec.Descriptor{{MediaType: spec.MediaTypeImageManifest, Digest: img, Size: 1}}}
	list.SchemaVersion = 2
	return img, put(types.OCIImageIndex, list), blob.Digest
}

// TestSHA512 keeps what is named by another digest than the library's own.
func TestSHA512(t *testing.T) { onEachStorage(t, testSHA512) }

func testSHA512(t *testing.T, newRig rigMaker) {
	t.Helper()
	r, to := newRig(t, func(o *registry.Options) { o.Grace = 1 }), newRig(t)
	img, index, layer := r.sha512Image("app")
	r.sha512Image("gone")
	r.want(201, "POST", "/v2/other/blobs/uploads/?mount="+layer.String()+"&from=app", nil)
	r.want(200, "GET", "/v2/other/blobs/"+layer.String(), nil)
	got, err := r.Image(t.Context(), "app", index.String())
	if err != nil || len(got.Layers) != 1 || got.Layers[0].Digest != layer.String() {
		t.Fatalf("%+v, %v", got, err)
	}
	if err := r.Tag(t.Context(), "app", "v1", index.String()); err != nil {
		t.Fatal(err)
	}

	// What is kept stays whole, what is not goes with all its names.
	keep := map[string]registry.Keep{"app": {Tags: map[string]bool{"v1": true}}}
	for i, want := range []int{2, 0} {
		done, err := r.Collect(t.Context(), func(repository string) (registry.Keep, error) { return keep[repository], nil })
		if err != nil || done.Manifests != want {
			t.Errorf("collection %d: %+v, %v", i, done, err)
		}
	}
	whole := func(r *rig) {
		t.Helper()
		for _, path := range []string{"manifests/" + img.String(), "manifests/" + index.String(), "blobs/" + layer.String()} {
			if got := r.want(200, "GET", "/v2/app/"+path, nil, "Accept", string(types.OCIManifestSchema1), "Accept", string(types.OCIImageIndex)).Header.Get("Docker-Content-Digest"); !bytes.HasSuffix([]byte(path), []byte(got)) || got == "" {
				t.Errorf("%s is named %s", path, got)
			}
		}
	}
	whole(r)
	r.want(404, "HEAD", "/v2/gone/blobs/"+digest.SHA512.FromString("a layer of gone").String(), nil)

	var file bytes.Buffer
	if _, missing, err := r.Save(t.Context(), &file, []registry.Named{{Repository: "app", Tag: "v1"}}); err != nil || len(missing) > 0 {
		t.Fatalf("%v, %v", missing, err)
	}
	if _, err := registry.CheckSaved(bytes.NewReader(file.Bytes())); err != nil {
		t.Error(err)
	}
	if _, err := to.Load(t.Context(), &file); err != nil {
		t.Fatal(err)
	}
	whole(to)

	r.want(202, "DELETE", "/v2/app/manifests/"+img.String(), nil)
	r.want(404, "GET", "/v2/app/manifests/"+img.String(), nil, "Accept", string(types.OCIManifestSchema1))
	if _, err := r.Image(t.Context(), "app", img.String()); !errors.Is(err, registry.ErrUnknown) {
		t.Errorf("after its deletion: %v", err)
	}
}
