package registry_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/google/go-containerregistry/pkg/v1/validate"

	"github.com/fluxgate/fluxgate/podman/registry"
)

// rig is a registry that is served on loopback.
type rig struct {
	*registry.Registry
	t    *testing.T
	host string

	mu     sync.Mutex
	pushes []registry.Push
	refuse error // of Pushed
}

// The users: each has its name as its password.
func authenticate(_ context.Context, r *http.Request, repository string, action registry.Action) (string, error) {
	user, password, ok := r.BasicAuth()
	switch {
	case !ok || user != password:
		return "", registry.ErrUnauthorized
	case password == "reader" && action != registry.ActionPull, password == "writer" && strings.HasPrefix(repository, "secret/"):
		return "", registry.ErrDenied
	case password == "broken":
		return "", errors.New("Redis is away")
	}
	return user, nil
}

func newRig(t *testing.T, change ...func(*registry.Options)) *rig {
	t.Helper()
	r := &rig{t: t}
	o := registry.Options{Dir: t.TempDir(), Authenticate: authenticate, Pushed: func(_ context.Context, p registry.Push) error {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.pushes = append(r.pushes, p)
		return r.refuse
	}}
	for _, fn := range change {
		fn(&o)
	}
	var err error
	if r.Registry, err = registry.New(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(r)
	t.Cleanup(func() {
		srv.Close()
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	r.host = strings.TrimPrefix(srv.URL, "http://")
	return r
}

func (r *rig) ref(text string) name.Reference {
	r.t.Helper()
	ref, err := name.ParseReference(r.host+"/"+text, name.Insecure)
	if err != nil {
		r.t.Fatal(err)
	}
	return ref
}

func as(user string) remote.Option {
	return remote.WithAuth(&authn.Basic{Username: user, Password: user})
}

func image(t *testing.T, layers int) v1.Image {
	t.Helper()
	img, err := random.Image(4096, int64(layers))
	if err != nil {
		t.Fatal(err)
	}
	return img
}

func (r *rig) push(text string, img v1.Image) v1.Hash {
	r.t.Helper()
	if err := remote.Write(r.ref(text), img, as("writer")); err != nil {
		r.t.Fatal(err)
	}
	d, err := img.Digest()
	if err != nil {
		r.t.Fatal(err)
	}
	return d
}

// has reports whether a whole, valid image can be pulled.
func (r *rig) has(text string) bool {
	r.t.Helper()
	img, err := remote.Image(r.ref(text), as("reader"))
	if err != nil {
		return false
	}
	if err := validate.Image(img); err != nil {
		r.t.Errorf("%s is broken: %v", text, err)
	}
	return true
}

// ask sends one request as the writer.
func (r *rig) ask(method, path string, body []byte, header ...string) *http.Response {
	r.t.Helper()
	url := path
	if strings.HasPrefix(path, "/") {
		url = "http://" + r.host + path
	}
	req, err := http.NewRequestWithContext(r.t.Context(), method, url, bytes.NewReader(body))
	if err != nil {
		r.t.Fatal(err)
	}
	req.SetBasicAuth("writer", "writer")
	for i := 0; i < len(header); i += 2 {
		req.Header.Add(header[i], header[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		r.t.Fatal(err)
	}
	text, _ := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	resp.Body = io.NopCloser(bytes.NewReader(text))
	return resp
}

func (r *rig) want(status int, method, path string, body []byte, header ...string) *http.Response {
	r.t.Helper()
	resp := r.ask(method, path, body, header...)
	if resp.StatusCode != status {
		text, _ := io.ReadAll(resp.Body)
		r.t.Fatalf("%s %s: %d, want %d\n%s", method, path, resp.StatusCode, status, text)
	}
	return resp
}

func TestPushPull(t *testing.T) { onEachStorage(t, testPushPull) }

func testPushPull(t *testing.T, newRig rigMaker) {
	t.Helper()
	r := newRig(t)
	img := image(t, 3)
	digest := r.push("app:v1", img)
	if !r.has("app:v1") || !r.has("app@"+digest.String()) {
		t.Fatal("it cannot be pulled")
	}
	if len(r.pushes) != 1 || r.pushes[0] != (registry.Push{Repository: "app", Tag: "v1", Digest: digest.String(), MediaType: string(types.DockerManifestSchema2), User: "writer"}) {
		t.Errorf("told of pushes %+v", r.pushes)
	}
	config, err := img.ConfigName()
	if err != nil {
		t.Fatal(err)
	}
	got, err := r.Image(t.Context(), "app", "v1")
	if err != nil || got.Manifest != digest.String() || got.ID != config.String() || len(got.Layers) != 3 || got.Layers[0].Size == 0 {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err := r.Image(t.Context(), "app", "v2"); !errors.Is(err, registry.ErrUnknown) {
		t.Errorf("an unknown tag: %v", err)
	}
	text, _ := io.ReadAll(r.want(200, "GET", "/v2/_catalog", nil).Body)
	if strings.TrimSpace(string(text)) != `{"repositories":["app"]}` {
		t.Errorf("the catalog is %s", text)
	}
	if err := r.Tag(t.Context(), "app", "other", got.Manifest); err != nil || !r.has("app:other") {
		t.Errorf("tagged here: %v", err)
	}

	// An index, whose images are told under no tag.
	index, err := random.Index(1024, 1, 2)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.WriteIndex(r.ref("many:v1"), index, as("writer")); err != nil {
		t.Fatal(err)
	}
	back, err := remote.Index(r.ref("many:v1"), as("reader"))
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Index(back); err != nil {
		t.Error(err)
	}
	if len(r.pushes) != 2 || r.pushes[1].Repository != "many" {
		t.Errorf("told of pushes %+v", r.pushes)
	}
}

// TestRefusedPush shows the one who pushes why it is no deploy.
func TestRefusedPush(t *testing.T) {
	r := newRig(t)
	r.refuse = errors.New("nothing answers on port 8080")
	err := remote.Write(r.ref("app:v1"), image(t, 1), as("writer"))
	if err == nil || !strings.Contains(err.Error(), "nothing answers on port 8080") {
		t.Errorf("the client is told %v", err)
	}
}

func TestAccess(t *testing.T) {
	r := newRig(t)
	img := image(t, 1)
	r.push("app:v1", img)
	if err := remote.Write(r.ref("secret/app:v1"), img, as("admin")); err != nil {
		t.Fatal(err)
	}
	layers, _ := img.Layers()
	layer, _ := layers[0].Digest()
	tests := map[string]struct {
		user, method, path string
		status             int
		code               string
	}{
		"nobody":                {"", "GET", "/v2/", 401, "UNAUTHORIZED"},
		"nobody pulls":          {"", "GET", "/v2/app/manifests/v1", 401, "UNAUTHORIZED"},
		"a wrong password":      {"x:y", "GET", "/v2/", 401, "UNAUTHORIZED"},
		"a reader pulls":        {"reader", "GET", "/v2/app/manifests/v1", 200, ""},
		"a reader pushes":       {"reader", "POST", "/v2/app/blobs/uploads/", 403, "DENIED"},
		"a reader deletes":      {"reader", "DELETE", "/v2/app/manifests/v1", 403, "DENIED"},
		"a writer pushes":       {"writer", "POST", "/v2/app/blobs/uploads/", 202, ""},
		"another's repository":  {"writer", "GET", "/v2/secret/app/manifests/v1", 403, "DENIED"},
		"a mount from another":  {"writer", "POST", "/v2/app/blobs/uploads/?mount=" + layer.String() + "&from=secret/app", 403, "DENIED"},
		"a mount from own":      {"writer", "POST", "/v2/more/blobs/uploads/?mount=" + layer.String() + "&from=app", 201, ""},
		"tokens are away":       {"broken", "GET", "/v2/", 503, "UNKNOWN"},
		"a bad name":            {"writer", "GET", "/v2/App/manifests/v1", 400, "NAME_INVALID"},
		"out of the folder":     {"writer", "GET", "/v2/../../etc/manifests/passwd", 404, "NAME_INVALID"},
		"out of it, encoded":    {"writer", "GET", "/v2/%2e%2e%2fetc/manifests/passwd", 404, "NAME_INVALID"},
		"a tag out of it":       {"writer", "GET", "/v2/app/manifests/..", 404, "NAME_INVALID"},
		"another path":          {"writer", "GET", "/metrics", 404, "NAME_INVALID"},
		"a mount from nonsense": {"writer", "POST", "/v2/app/blobs/uploads/?mount=" + layer.String() + "&from=../x", 400, "NAME_INVALID"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			req := httptest.NewRequestWithContext(t.Context(), tt.method, tt.path, nil)
			user, password, two := strings.Cut(tt.user, ":")
			if !two {
				password = user
			}
			if user != "" {
				req.SetBasicAuth(user, password)
			}
			w := httptest.NewRecorder()
			r.ServeHTTP(w, req)
			if w.Code != tt.status || !strings.Contains(w.Body.String(), tt.code) {
				t.Errorf("%d %s, want %d %s", w.Code, w.Body, tt.status, tt.code)
			}
			if (w.Code == 401) != (w.Header().Get("WWW-Authenticate") != "") {
				t.Errorf("WWW-Authenticate %q with %d", w.Header().Get("WWW-Authenticate"), w.Code)
			}
		})
	}
}

func TestUploadInChunks(t *testing.T) { onEachStorage(t, testUploadInChunks) }

func testUploadInChunks(t *testing.T, newRig rigMaker) {
	t.Helper()
	r := newRig(t)
	blob := []byte(strings.Repeat("layer ", 1000))
	digest, _, err := v1.SHA256(bytes.NewReader(blob))
	if err != nil {
		t.Fatal(err)
	}
	at := r.want(202, "POST", "/v2/app/blobs/uploads/", nil).Header.Get("Location")
	for i := 0; i < len(blob); i += 2000 {
		part := blob[i:min(i+2000, len(blob))]
		at = r.want(202, "PATCH", at, part, "Content-Range", fmt.Sprintf("%d-%d", i, i+len(part)-1)).Header.Get("Location")
	}
	sep := "?"
	if strings.Contains(at, "?") {
		sep = "&"
	}
	r.want(201, "PUT", at+sep+"digest="+digest.String(), nil)
	r.want(200, "HEAD", "/v2/app/blobs/"+digest.String(), nil)
	// What was not what it was said to be is not taken.
	at = r.want(202, "POST", "/v2/app/blobs/uploads/", nil).Header.Get("Location")
	r.want(400, "PUT", at+sep+"digest="+digest.String(), []byte("something else"))
	r.want(202, "DELETE", "/v2/app/blobs/"+digest.String(), nil)
	r.want(404, "HEAD", "/v2/app/blobs/"+digest.String(), nil)
}

func TestTags(t *testing.T) { onEachStorage(t, testTags) }

func testTags(t *testing.T, newRig rigMaker) {
	t.Helper()
	r := newRig(t)
	img := image(t, 1)
	for _, tag := range []string{"c", "a", "b"} {
		r.push("app:"+tag, img)
	}
	read := func(query string) string {
		t.Helper()
		text, _ := io.ReadAll(r.want(200, "GET", "/v2/app/tags/list"+query, nil).Body)
		return strings.TrimSpace(string(text))
	}
	for query, want := range map[string]string{
		"":            `{"name":"app","tags":["a","b","c"]}`,
		"?n=2":        `{"name":"app","tags":["a","b"]}`,
		"?n=2&last=b": `{"name":"app","tags":["c"]}`,
	} {
		if got := read(query); got != want {
			t.Errorf("tags%s: %s, want %s", query, got, want)
		}
	}
	r.want(202, "DELETE", "/v2/app/manifests/b", nil)
	r.want(404, "GET", "/v2/app/manifests/b", nil)
	if !r.has("app:a") {
		t.Error("the image went with one of its tags")
	}
}

func TestManifestLimits(t *testing.T) {
	r := newRig(t)
	r.want(413, "PUT", "/v2/app/manifests/v1", bytes.Repeat([]byte("x"), 4<<20+1), "Content-Type", string(types.OCIManifestSchema1))
	r.want(400, "PUT", "/v2/app/manifests/v1", []byte("{}"), "Content-Type", string(types.OCIManifestSchema1))
	if len(r.pushes) != 0 {
		t.Errorf("told of pushes %+v", r.pushes)
	}
}

// signature is an image that refers to another one.
func signature(t *testing.T, subject v1.Image, kind string) v1.Image {
	t.Helper()
	d, err := partial.Descriptor(subject)
	if err != nil {
		t.Fatal(err)
	}
	img := mutate.MediaType(image(t, 1), types.OCIManifestSchema1)
	img = mutate.ConfigMediaType(img, types.MediaType(kind))
	out, ok := mutate.Subject(img, *d).(v1.Image)
	if !ok {
		t.Fatal("no image")
	}
	return out
}

func TestReferrers(t *testing.T) { onEachStorage(t, testReferrers) }

func testReferrers(t *testing.T, newRig rigMaker) {
	t.Helper()
	r := newRig(t)
	img := mutate.MediaType(image(t, 1), types.OCIManifestSchema1)
	subject := r.push("app:v1", img)
	sig := r.push("app:sig", signature(t, img, "application/vnd.example.signature"))
	r.push("app:sbom", signature(t, img, "application/vnd.example.sbom"))

	list := func(query string) (digests []string, resp *http.Response) {
		t.Helper()
		resp = r.want(200, "GET", "/v2/app/referrers/"+subject.String()+query, nil)
		index, err := v1.ParseIndexManifest(resp.Body)
		if err != nil || index.MediaType != types.OCIImageIndex {
			t.Fatalf("%v %v", index, err)
		}
		for _, d := range index.Manifests {
			digests = append(digests, d.Digest.String())
		}
		return digests, resp
	}
	if all, _ := list(""); len(all) != 2 {
		t.Errorf("referrers %v", all)
	}
	some, resp := list("?artifactType=application/vnd.example.signature")
	if !slices.Equal(some, []string{sig.String()}) || resp.Header.Get("OCI-Filters-Applied") != "artifactType" {
		t.Errorf("filtered %v, %v", some, resp.Header)
	}
	r.want(202, "DELETE", "/v2/app/manifests/"+sig.String(), nil)
	if all, _ := list(""); len(all) != 1 {
		t.Errorf("after a deletion: %v", all)
	}
	r.want(200, "GET", "/v2/app/referrers/sha256:"+strings.Repeat("0", 64), nil)
	r.want(400, "GET", "/v2/app/referrers/v1", nil)
}

func TestCollect(t *testing.T) { onEachStorage(t, testCollect) }

func testCollect(t *testing.T, newRig rigMaker) {
	t.Helper()
	r := newRig(t, func(o *registry.Options) { o.Grace = time.Nanosecond })
	shared := image(t, 2)
	extra, err := random.Layer(2048, types.DockerLayer)
	if err != nil {
		t.Fatal(err)
	}
	grown, err := mutate.AppendLayers(shared, extra)
	if err != nil {
		t.Fatal(err)
	}
	r.push("app:v1", shared)
	r.push("app:v2", grown)
	r.push("app:v3", image(t, 1))
	r.push("gone:v1", image(t, 1))
	index, err := random.Index(512, 1, 2)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.WriteIndex(r.ref("many:v1"), index, as("writer")); err != nil {
		t.Fatal(err)
	}
	signed := mutate.MediaType(image(t, 1), types.OCIManifestSchema1)
	r.push("signed:v1", signed)
	sig := r.push("signed:sig", signature(t, signed, "application/vnd.example.signature"))

	keep := map[string]registry.Keep{"app": {Tags: map[string]bool{"v2": true, "never": true}}, "many": {All: true}, "signed": {Tags: map[string]bool{"v1": true}}}
	collect := func() registry.Collected {
		t.Helper()
		done, err := r.Collect(t.Context(), func(repository string) (registry.Keep, error) { return keep[repository], nil })
		if err != nil {
			t.Fatal(err)
		}
		return done
	}
	done := collect()
	// v1, v3 and gone's manifests; their configs, v3's and gone's layer, and the manifests' own blobs.
	if done.Manifests != 3 || done.Blobs != 8 || done.Bytes == 0 {
		t.Errorf("collected %+v", done)
	}
	for text, want := range map[string]bool{"app:v1": false, "app:v2": true, "app:v3": false, "gone:v1": false, "signed:v1": true} {
		if got := r.has(text); got != want {
			t.Errorf("%s is there: %v, want %v", text, got, want)
		}
	}
	if back, err := remote.Index(r.ref("many:v1"), as("reader")); err != nil || validate.Index(back) != nil {
		t.Errorf("the kept index: %v", err)
	}
	r.want(200, "GET", "/v2/signed/manifests/"+sig.String(), nil, "Accept", string(types.OCIManifestSchema1))
	if again := collect(); again != (registry.Collected{}) {
		t.Errorf("collected again: %+v", again)
	}
	// What was collected can be pushed again.
	r.push("app:v1", shared)
	if !r.has("app:v1") {
		t.Error("it cannot be pushed again")
	}
	if _, err := r.Collect(t.Context(), func(string) (registry.Keep, error) { return registry.Keep{}, errors.New("no answer") }); err == nil || !r.has("app:v2") {
		t.Errorf("a failing keep: %v", err)
	}
}

// TestCollectWhilePushing has images pushed that share layers with what is
// collected at the same time: what was pushed successfully is whole.
func TestCollectWhilePushing(t *testing.T) { onEachStorage(t, testCollectWhilePushing) }

func testCollectWhilePushing(t *testing.T, newRig rigMaker) {
	t.Helper()
	r := newRig(t)
	base := image(t, 3)
	stop := make(chan struct{})
	var group sync.WaitGroup
	group.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			if _, err := r.Collect(context.Background(), func(string) (registry.Keep, error) { return registry.Keep{}, nil }); err != nil {
				t.Error(err)
				return
			}
		}
	})
	var pushers sync.WaitGroup
	for p := range 4 {
		pushers.Go(func() {
			for i := range 8 {
				extra, err := random.Layer(512, types.DockerLayer)
				if err != nil {
					t.Error(err)
					return
				}
				img, err := mutate.AppendLayers(base, extra)
				if err != nil {
					t.Error(err)
					return
				}
				text := fmt.Sprintf("app%d:v%d", p, i)
				if err := remote.Write(r.ref(text), img, as("writer")); err != nil {
					t.Errorf("pushing %s: %v", text, err)
				} else if !r.has(text) {
					t.Errorf("%s was pushed and is gone within the grace", text)
				}
			}
		})
	}
	pushers.Wait()
	close(stop)
	group.Wait()
}

func TestParseS3(t *testing.T) {
	t.Setenv("AWS_ACCESS_KEY_ID", "key")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
	s, err := registry.ParseS3("s3://bucket/a/b/?region=eu-1&endpoint=https://minio:9000")
	if err != nil || *s != (registry.S3{Bucket: "bucket", Prefix: "a/b", Endpoint: "https://minio:9000", Region: "eu-1", AccessKey: "key", SecretKey: "hunter2"}) {
		t.Errorf("%+v, %v", s, err)
	}
	if s.String() != "s3://bucket/a/b" {
		t.Error(s.String())
	}
	for _, raw := range []string{"", "bucket", "s3://", "http://bucket", "s3://k:hunter2@bucket", "s3://bucket?endpoint=minio", "s3://bucket?zone=x", "s3://bucket?endpoint=ftp://x"} {
		if _, err := registry.ParseS3(raw); err == nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%q: %v", raw, err)
		}
	}
}

func TestOptions(t *testing.T) {
	for name, o := range map[string]registry.Options{
		"no storage":   {},
		"two of them":  {Dir: "/x", S3: &registry.S3{}},
		"no such S3":   {S3: &registry.S3{Bucket: "b"}},
		"not a folder": {Dir: "/dev/null/x"},
	} {
		r, err := registry.New(t.Context(), o)
		if name == "not a folder" && err == nil { // found out by the first push
			err = r.Close()
			if err == nil {
				continue
			}
		}
		if err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// TestRealPodman pushes with Podman and pulls with another one.
func TestRealPodman(t *testing.T) { onEachStorage(t, testRealPodman) }

func testRealPodman(t *testing.T, newRig rigMaker) {
	t.Helper()
	if _, err := exec.LookPath("podman"); err != nil {
		t.Skip("no podman here")
	}
	r := newRig(t)
	dir := t.TempDir()
	one := func(args ...string) string {
		t.Helper()
		all := append([]string{"--root", dir + "/root", "--runroot", dir + "/run", "--tmpdir", dir + "/tmp", "--storage-driver", "vfs", "--cgroup-manager", "cgroupfs"}, args...)
		out, err := exec.CommandContext(t.Context(), "podman", all...).CombinedOutput()
		if err != nil {
			t.Fatalf("podman %s: %v\n%s", strings.Join(args, " "), err, out)
		}
		return strings.TrimSpace(string(out))
	}
	tarball := filepath.Join(dir, "root.tar")
	if out, err := exec.CommandContext(t.Context(), "tar", "-cf", tarball, "-C", "/etc", "hostname").CombinedOutput(); err != nil {
		t.Fatalf("tar: %v %s", err, out)
	}
	one("import", "--quiet", tarball, "mine:v1")
	at := r.host + "/app:v1"
	one("push", "--tls-verify=false", "--creds", "writer:writer", "mine:v1", at)
	if len(r.pushes) != 1 {
		t.Errorf("told of pushes %+v", r.pushes)
	}
	id := one("image", "inspect", "--format", "{{.Id}}", "mine:v1")
	one("rmi", "--all", "--force")
	one("pull", "--tls-verify=false", "--creds", "reader:reader", at)
	if again := one("image", "inspect", "--format", "{{.Id}}", at); again != id {
		t.Errorf("image %s came back as %s", id, again)
	}
	got, err := r.Image(t.Context(), "app", "v1")
	if err != nil || got.ID != "sha256:"+id {
		t.Errorf("%+v, %v; want the ID %s", got, err, id)
	}
}

// TestSkopeo copies with skopeo, in both forms and back, to the last byte.
func TestSkopeo(t *testing.T) { onEachStorage(t, testSkopeo) }

func testSkopeo(t *testing.T, newRig rigMaker) {
	t.Helper()
	if _, err := exec.LookPath("skopeo"); err != nil {
		t.Skip("no skopeo here")
	}
	r := newRig(t)
	want := r.push("app:v1", image(t, 3))
	dir := "dir:" + t.TempDir()
	skopeo := func(args ...string) string {
		t.Helper()
		out, err := exec.CommandContext(t.Context(), "skopeo", args...).CombinedOutput()
		if err != nil {
			t.Fatalf("skopeo %s: %v\n%s", strings.Join(args, " "), err, out)
		}
		return strings.TrimSpace(string(out))
	}
	at := func(text string) string { return "docker://" + r.host + "/" + text }
	skopeo("copy", "--preserve-digests", "--src-tls-verify=false", "--src-creds", "reader:reader", at("app:v1"), dir)
	skopeo("copy", "--preserve-digests", "--dest-tls-verify=false", "--dest-creds", "writer:writer", dir, at("copied:v1"))
	skopeo("copy", "--format", "oci", "--src-tls-verify=false", "--src-creds", "reader:reader", "--dest-tls-verify=false", "--dest-creds", "writer:writer", at("app:v1"), at("oci:v1"))
	for _, text := range []string{"copied:v1", "oci:v1"} {
		if !r.has(text) {
			t.Errorf("%s did not come", text)
		}
	}
	if got := skopeo("inspect", "--tls-verify=false", "--creds", "reader:reader", "--format", "{{.Digest}}", at("copied:v1")); got != want.String() {
		t.Errorf("%s became %s", want, got)
	}
	if got := skopeo("list-tags", "--tls-verify=false", "--creds", "reader:reader", at("copied")); !strings.Contains(got, `"v1"`) {
		t.Errorf("its tags are %s", got)
	}
	skopeo("delete", "--tls-verify=false", "--creds", "writer:writer", at("copied:v1"))
	if r.has("copied:v1") || !r.has("app:v1") {
		t.Error("the wrong one was deleted")
	}
}
