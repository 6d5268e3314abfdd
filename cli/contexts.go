package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/fluxgate/fluxgate/gateway/api"
	"github.com/fluxgate/fluxgate/router"
)

// Context is a gateway that the commands can talk to.
type Context struct {
	URL     string `json:"url"`               // of its control API
	Address string `json:"address,omitempty"` // dialled instead of the URL's host: host:port or unix:///path
	Token   string `json:"token"`
	CA      string `json:"ca,omitempty"` // root certificate, PEM
}

// contextsFile is what is on disk. Only its owner may read it: it holds tokens.
type contextsFile struct {
	Current  string             `json:"current"`
	Contexts map[string]Context `json:"contexts"`
}

// DataDir is where the gateway keeps its data unless told otherwise.
func DataDir() string {
	if os.Geteuid() == 0 {
		return "/var/lib/fluxgate"
	}
	if dir := os.Getenv("XDG_DATA_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "fluxgate")
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "fluxgate-data"
	}
	return filepath.Join(home, ".local", "share", "fluxgate")
}

// contextsPath is contexts.json in the XDG configuration folder.
func contextsPath() (string, error) {
	dir, err := os.UserConfigDir()
	if err != nil {
		return "", router.Errorf(router.CodeInternal, "there is no folder for configuration (%w); set HOME or XDG_CONFIG_HOME", err)
	}
	return filepath.Join(dir, "fluxgate", "contexts.json"), nil
}

// WriteContext stores a context under name, in place of one that has it. It
// becomes the current one if there is none. The write is atomic.
func WriteContext(name string, c Context) error { return writeContext(name, c, false) }

func writeContext(name string, c Context, use bool) error {
	path, err := contextsPath()
	if err != nil {
		return err
	}
	file, err := readContexts(path)
	if err != nil {
		return err
	}
	file.Contexts[name] = c
	if _, ok := file.Contexts[file.Current]; !ok || use {
		file.Current = name
	}
	text, err := json.MarshalIndent(file, "", "  ")
	if err != nil {
		return err
	}
	err = os.MkdirAll(filepath.Dir(path), 0o700)
	if err == nil {
		err = writeFileAtomic(path, append(text, '\n'), 0o600)
	}
	if err != nil {
		return router.Errorf(router.CodeInternal, "cannot write the contexts: %w", err)
	}
	return nil
}

func readContexts(path string) (contextsFile, error) {
	file := contextsFile{Contexts: map[string]Context{}}
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return file, nil
	}
	if err == nil {
		err = json.Unmarshal(text, &file)
	}
	if err != nil {
		return file, router.Errorf(router.CodeInternal, "cannot read %s (%w); correct it or remove it and log in again", path, err)
	}
	if file.Contexts == nil {
		file.Contexts = map[string]Context{}
	}
	return file, nil
}

// connect makes a client of the context that the flags choose.
func connect(c *cli.Context) (*api.Client, error) {
	path, err := contextsPath()
	if err != nil {
		return nil, err
	}
	file, err := readContexts(path)
	if err != nil {
		return nil, err
	}
	name := c.String("context")
	if name == "" {
		name = file.Current
	}
	chosen, ok := file.Contexts[name]
	switch {
	case ok:
		return chosen.client()
	case name == "":
		return nil, router.Errorf(router.CodeNotFound, "no gateway is known here; run `fluxgate up` on this machine, or `fluxgate login URL` for one elsewhere")
	}
	known := make([]string, 0, len(file.Contexts))
	for n := range file.Contexts {
		known = append(known, n)
	}
	sort.Strings(known)
	if len(known) == 0 {
		known = []string{"none"}
	}
	return nil, router.Errorf(router.CodeNotFound, "there is no context %q; known: %s", name, strings.Join(known, ", "))
}

func (c Context) client() (*api.Client, error) {
	client, err := api.NewClient(api.ClientOptions{
		URL: c.URL, Address: c.Address, RootPEM: []byte(c.CA), Token: router.NewSecret(c.Token),
	})
	if err != nil {
		return nil, fmt.Errorf("the stored context is broken: %w", err)
	}
	return client, nil
}
