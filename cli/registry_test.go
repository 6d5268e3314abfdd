package cli_test

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/validate"
)

// layer is an image's layer with one file.
func layer(t *testing.T, file string, content []byte) v1.Layer {
	t.Helper()
	var buf bytes.Buffer
	tw := tar.NewWriter(&buf)
	if err := tw.WriteHeader(&tar.Header{Name: file, Mode: 0o755, Size: int64(len(content))}); err != nil {
		t.Fatal(err)
	}
	if _, err := tw.Write(content); err != nil {
		t.Fatal(err)
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(buf.Bytes())), nil })
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// appImage is the test app as an image that nobody built here.
func appImage(t *testing.T, command string, more ...v1.Layer) v1.Image {
	t.Helper()
	code, err := os.ReadFile(appBinary)
	if err != nil {
		t.Fatal(err)
	}
	img, err := mutate.AppendLayers(empty.Image, append([]v1.Layer{layer(t, "app", code)}, more...)...)
	if err == nil {
		img, err = mutate.Config(img, v1.Config{Entrypoint: []string{command}})
	}
	if err == nil {
		file, ferr := img.ConfigFile()
		if ferr != nil {
			t.Fatal(ferr)
		}
		file = file.DeepCopy()
		file.OS, file.Architecture = "linux", "amd64"
		img, err = mutate.ConfigFile(img, file)
	}
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// token is the one that `up` gave this user.
func (m *machine) token() string {
	m.t.Helper()
	text, err := os.ReadFile(filepath.Join(m.dir, "config", "fluxgate", "contexts.json"))
	if err != nil {
		m.t.Fatal(err)
	}
	var file struct {
		Contexts map[string]struct{ Token string }
	}
	if err := json.Unmarshal(text, &file); err != nil {
		m.t.Fatal(err)
	}
	return file.Contexts["local"].Token
}

// pushImage pushes as `podman push` does.
func (m *machine) pushImage(what string, img v1.Image, password string) error {
	m.t.Helper()
	ref, err := name.ParseReference(fmt.Sprintf("registry.localhost:%s/%s", m.port, what))
	if err != nil {
		m.t.Fatal(err)
	}
	return remote.Write(ref, img, remote.WithAuth(&authn.Basic{Username: "me", Password: password}), remote.WithTransport(m.client().Transport))
}

func (m *machine) pullImage(what string) (v1.Image, error) {
	m.t.Helper()
	ref, err := name.ParseReference(fmt.Sprintf("registry.localhost:%s/%s", m.port, what))
	if err != nil {
		m.t.Fatal(err)
	}
	return remote.Image(ref, remote.WithAuth(&authn.Basic{Username: "me", Password: m.token()}), remote.WithTransport(m.client().Transport))
}

// TestPushToRegistry deploys by pushing an image, as podman and docker do.
func TestPushToRegistry(t *testing.T) {
	m := upMachine(t)
	client := m.client()
	if err := m.pushImage("hello:v1", appImage(t, "/app"), "fgt_000000000000_wrong"); err == nil || !strings.Contains(err.Error(), "401") {
		t.Errorf("with a wrong token: %v", err)
	}
	img := appImage(t, "/app")
	if err := m.pushImage("hello:v1", img, m.token()); err != nil {
		t.Fatal(err)
	}
	m.get(client, "hello", "/") // it serves before the push ends
	back, err := m.pullImage("hello:v1")
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Image(back); err != nil {
		t.Error(err)
	}

	// The second one keeps the app's configuration; the same again is no release.
	m.run("env", "hello", "set", "GREETING=kept")
	if err := m.pushImage("hello:v2", appImage(t, "/app", layer(t, "more", []byte("x"))), m.token()); err != nil {
		t.Fatal(err)
	}
	if a := m.get(client, "hello", "/"); !strings.Contains(a.body, "kept") {
		t.Errorf("after the second push it answers %q", a.body)
	}
	before := m.run("releases", "hello", "--json")
	if err := m.pushImage("hello:again", appImage(t, "/app", layer(t, "more", []byte("x"))), m.token()); err != nil {
		t.Fatal(err)
	}
	if after := m.run("releases", "hello", "--json"); after != before {
		t.Errorf("the same image made another release:\n%s\n%s", before, after)
	}

	// What does not come up is told to the one who pushes, and serves nobody.
	err = m.pushImage("hello:v3", appImage(t, "/nothing"), m.token())
	if err == nil || !strings.Contains(err.Error(), "hello was not deployed") {
		t.Errorf("an image that does not start: %v", err)
	}
	m.get(client, "hello", "/")
	if err := m.pushImage("team/tool:v1", img, m.token()); err != nil {
		t.Errorf("an image that is no app's: %v", err)
	}
	if got := strings.Join(m.apps(), " "); got != "hello" {
		t.Errorf("apps: %s", got)
	}
	if a, err := fetch(client, "https://registry.localhost:"+m.port+"/"); err != nil || a.status != http.StatusNotFound || strings.Contains(a.body, "html") {
		t.Errorf("beside the registry: %d %v %s", a.status, err, a.body)
	}
}

// TestImagesTravelByLayers has images reach nodes through the registry: each
// layer once, over SSH, though no registry is there but the gateway's own.
func TestImagesTravelByLayers(t *testing.T) {
	m, nodes := fleetMachine(t, 2)
	near, far := nodes[0], nodes[1]
	m.run("node", "add", near.url, "--name", near.name, "--host-key", near.print)
	m.run("node", "add", far.url, "--name", far.name, "--host-key", far.print, "--tunnel")
	m.push("app", "[scale]\nmin = 2\n")
	m.awaitWhere("app", map[string]string{"n1": "ready", "n2": "ready"}) // spread, so the image went to the other one
	for _, n := range nodes {
		if out := n.enginePodman("images", "--format", "{{.Repository}}"); strings.Contains(out, "127.0.0.1") {
			t.Errorf("%s keeps the registry's address of a moment: %s", n.name, out)
		}
	}
	if !strings.Contains(m.askRegistry("/v2/_catalog"), `"app"`) {
		t.Errorf("the registry holds %s", m.askRegistry("/v2/_catalog"))
	}
	// The image of another app is there before it is needed.
	m.push("ahead", "")
	eventually(t, "both nodes have the image", func() bool {
		_, image, _ := strings.Cut(m.askRegistry("/v2/ahead/tags/list"), "sha256-")
		image, _, _ = strings.Cut(image, `"`)
		return image != "" && strings.Contains(near.enginePodman("images", "--quiet", "--no-trunc"), image) && strings.Contains(far.enginePodman("images", "--quiet", "--no-trunc"), image)
	})
	// A node that has lost its images gets them again, from the registry alone.
	m.run("node", "drain", near.name, "--timeout", "60s")
	m.awaitWhere("app", map[string]string{"n2": "ready ready"})
	near.enginePodman("rmi", "--all", "--force")
	far.cut()
	m.run("node", "drain", "--undo", near.name)
	m.awaitWhere("app", map[string]string{"n1": "ready ready"})
	m.get(m.client(), "app", "/")
	far.mend()
}

// podman runs a command on the node itself.
func (n *fleetNode) enginePodman(args ...string) string {
	n.t.Helper()
	out, err := n.inside(append(n.args, args...)...).CombinedOutput()
	if err != nil {
		n.t.Fatalf("podman %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// askRegistry is what the registry answers.
func (m *machine) askRegistry(path string) string {
	m.t.Helper()
	req, err := http.NewRequestWithContext(context.Background(), http.MethodGet, "https://registry.localhost:"+m.port+path, nil)
	if err != nil {
		m.t.Fatal(err)
	}
	req.SetBasicAuth("me", m.token())
	resp, err := m.client().Do(req)
	if err != nil {
		m.t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	text, _ := io.ReadAll(resp.Body)
	return string(text)
}
