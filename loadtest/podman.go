package main

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// podmanAPI makes raw calls to Podman's service: the reference that wakes and
// pushes are compared with.
type podmanAPI struct {
	socket string
	http   *http.Client
}

func newPodman(socket string) *podmanAPI {
	dialer := net.Dialer{Timeout: 10 * time.Second}
	return &podmanAPI{socket: socket, http: &http.Client{
		Timeout: 5 * time.Minute,
		Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, "unix", socket)
		}},
	}}
}

// findPodman is the service that the gateway uses: the one it started in its
// data folder, else the machine's own.
func findPodman(ctx context.Context, data string) (*podmanAPI, error) {
	var sockets []string
	_ = filepath.WalkDir(data, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type() == fs.ModeSocket && strings.Contains(d.Name(), "podman") {
			sockets = append(sockets, path)
		}
		return nil
	})
	sockets = append(sockets, "/run/podman/podman.sock", os.Getenv("XDG_RUNTIME_DIR")+"/podman/podman.sock")
	for _, socket := range sockets {
		p := newPodman(socket)
		if _, err := p.send(ctx, http.MethodGet, "/_ping", "", nil); err == nil {
			return p, nil
		}
	}
	return nil, fmt.Errorf("no Podman service answers at %s: name its socket with -podman", strings.Join(sockets, ", "))
}

// send makes one call and returns the whole answer.
func (p *podmanAPI) send(ctx context.Context, method, path, contentType string, body io.Reader) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://podman/v4.0.0/libpod"+path, body)
	if err != nil {
		return nil, err
	}
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	resp, err := p.http.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode >= http.StatusBadRequest {
		err = fmt.Errorf("podman %s %s: %s: %s", method, path, resp.Status, bytes.TrimSpace(text))
	}
	return text, err
}

// get decodes what a path answers.
func (p *podmanAPI) get(ctx context.Context, path string, query url.Values, out any) error {
	text, err := p.send(ctx, http.MethodGet, path+"?"+query.Encode(), "", nil)
	if err != nil {
		return err
	}
	return json.Unmarshal(text, out)
}

// build builds a context of files (name to content), one of which is the
// Containerfile, with nothing cached.
func (p *podmanAPI) build(ctx context.Context, tag string, files map[string][]byte) error {
	var buf bytes.Buffer
	tw := tar.NewWriter(&buf)
	for name, content := range files {
		head := &tar.Header{Name: name, Mode: 0o755, Size: int64(len(content))}
		if err := tw.WriteHeader(head); err != nil {
			return err
		}
		if _, err := tw.Write(content); err != nil {
			return err
		}
	}
	if err := tw.Close(); err != nil {
		return err
	}
	query := url.Values{"dockerfile": {"Containerfile"}, "t": {tag}, "nocache": {"true"}}
	text, err := p.send(ctx, http.MethodPost, "/build?"+query.Encode(), "application/x-tar", &buf)
	if err != nil {
		return err
	}
	// The answer is a stream of objects; a failure is one of them.
	for dec := json.NewDecoder(bytes.NewReader(text)); ; {
		var line struct {
			Error string `json:"error"`
		}
		switch err := dec.Decode(&line); {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		case line.Error != "":
			return fmt.Errorf("podman build: %s", line.Error)
		}
	}
}

func (p *podmanAPI) removeImage(ctx context.Context, tag string) error {
	_, err := p.send(ctx, http.MethodDelete, "/images/"+url.PathEscape(tag)+"?force=true", "", nil)
	return err
}

// labelled counts the containers that carry the label, running or not.
func (p *podmanAPI) labelled(ctx context.Context, label string) ([]string, error) {
	filter, err := json.Marshal(map[string][]string{"label": {label}})
	if err != nil {
		return nil, err
	}
	var list []struct {
		ID string `json:"Id"`
	}
	if err := p.get(ctx, "/containers/json", url.Values{"all": {"true"}, "filters": {string(filter)}}, &list); err != nil {
		return nil, err
	}
	ids := make([]string, len(list))
	for i, c := range list {
		ids[i] = c.ID
	}
	return ids, nil
}

// created counts the containers with the label that were made since a time,
// those already removed among them.
func (p *podmanAPI) created(ctx context.Context, label string, since time.Time) (int, error) {
	filter, err := json.Marshal(map[string][]string{"label": {label}, "event": {"create"}})
	if err != nil {
		return 0, err
	}
	query := url.Values{"stream": {"false"}, "since": {fmt.Sprint(since.Unix())}, "filters": {string(filter)}}
	text, err := p.send(ctx, http.MethodGet, "/events?"+query.Encode(), "", nil)
	if err != nil {
		return 0, err
	}
	count := 0
	for dec := json.NewDecoder(bytes.NewReader(text)); ; count++ {
		var event struct{}
		if err := dec.Decode(&event); errors.Is(err, io.EOF) {
			return count, nil
		} else if err != nil {
			return 0, err
		}
	}
}
