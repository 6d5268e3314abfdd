package main

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// fewNodes are added one by one, as an operator does; the others are made from
// their records.
const fewNodes = 4

// populate registers the nodes and apps. Adding so many one by one would take
// hours with what images and starts take; so a few nodes are added and checked,
// one app is pushed three times, what is stored of them is saved by `fluxgate
// backup`, multiplied, and written back by `fluxgate restore`. It says how long
// adding a node and restoring took.
func (s *simulated) populate(ctx context.Context) (add, restore time.Duration, err error) {
	if err := s.gw.start(ctx); err != nil {
		return 0, 0, err
	}
	began := time.Now()
	for i := range fewNodes {
		if _, err := s.gw.cli(ctx, "node", "add", "tcp://"+fakeAddress(i)+":"+fakePort, "--name", fmt.Sprintf("n%d", i), "--label", fmt.Sprintf("rack=r%d", i/rackSize)); err != nil {
			return 0, 0, err
		}
	}
	add = time.Since(began) / fewNodes
	dir := filepath.Join(s.dir, "app")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return 0, 0, err
	}
	for i := range 3 {
		manifest := fmt.Sprintf("name = \"app0\"\ndomains = [\"app0.example.com\"]\n[build]\nimage = \"localhost/hello\"\n[http]\ntimeout = \"%ds\"\n[env]\nGREETING = \"hello\"\nMODE = \"production\"\n", 60+i)
		if err := os.WriteFile(filepath.Join(dir, "fluxgate.toml"), []byte(manifest), 0o600); err != nil {
			return 0, 0, err
		}
		if _, err := s.gw.cli(ctx, "push", dir); err != nil {
			return 0, 0, err
		}
	}
	saved, many := filepath.Join(s.dir, "one"), filepath.Join(s.dir, "many")
	if _, err := s.gw.cli(ctx, "backup", saved, "--redis", "unix://"+s.socket); err != nil {
		return 0, 0, err
	}
	if err := s.gw.stop(); err != nil {
		return 0, 0, err
	}
	if err := multiply(saved, many, s.extent); err != nil {
		return 0, 0, err
	}
	began = time.Now()
	_, err = s.gw.cli(ctx, "restore", many, "--redis", "unix://"+s.socket)
	return add, time.Since(began), err
}

// record is one line of a backup.
type record struct {
	Kind    string            `json:"kind"`
	Name    string            `json:"name,omitempty"`
	Value   string            `json:"value,omitempty"`
	Fields  map[string]string `json:"fields,omitempty"`
	Format  int               `json:"fluxgate_backup,omitempty"`
	Created time.Time         `json:"created,omitzero"`
	Records int               `json:"records,omitempty"`
	SHA256  string            `json:"sha256,omitempty"`
}

// multiply writes a backup with as many nodes and apps as e has, each like the
// one in the backup at from.
func multiply(from, to string, e extent) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer out.Close()
	sum, lines := sha256.New(), 0
	buffered := bufio.NewWriterSize(out, 1<<20)
	w := io.MultiWriter(buffered, sum)
	write := func(r record) error {
		text, err := json.Marshal(r)
		if err == nil {
			_, err = w.Write(append(text, '\n'))
		}
		lines++
		return err
	}
	scan := bufio.NewScanner(in)
	scan.Buffer(nil, 64<<20)
	for scan.Scan() {
		var r record
		if err := json.Unmarshal(scan.Bytes(), &r); err != nil {
			return err
		}
		if r.Kind == "end" {
			break
		}
		if err := write(r); err != nil {
			return err
		}
		var err error
		switch {
		case r.Kind == "node" && r.Name == "n0":
			err = moreNodes(r, e.nodes, write)
		case r.Kind == "app":
			err = moreApps(r, e.apps, write)
		}
		if err != nil {
			return err
		}
	}
	if err := scan.Err(); err != nil {
		return err
	}
	if err := buffered.Flush(); err != nil {
		return err
	}
	text, err := json.Marshal(record{Kind: "end", Records: lines, SHA256: hex.EncodeToString(sum.Sum(nil))})
	if err != nil {
		return err
	}
	_, err = out.Write(append(text, '\n'))
	return err
}

// moreNodes writes records of those nodes that were not added one by one.
func moreNodes(one record, count int, write func(record) error) error {
	for i := fewNodes; i < count; i++ {
		change := strings.NewReplacer(`"n0"`, fmt.Sprintf(`"n%d"`, i), fakeAddress(0), fakeAddress(i), `"r0"`, fmt.Sprintf(`"r%d"`, i/rackSize))
		if err := write(record{Kind: one.Kind, Name: fmt.Sprintf("n%d", i), Value: change.Replace(one.Value)}); err != nil {
			return err
		}
	}
	return nil
}

func moreApps(one record, count int, write func(record) error) error {
	for i := 1; i < count; i++ {
		name := fmt.Sprintf("app%d", i)
		fields := make(map[string]string, len(one.Fields))
		for k, v := range one.Fields {
			fields[k] = strings.ReplaceAll(v, "app0", name)
		}
		if err := write(record{Kind: one.Kind, Name: name, Fields: fields}); err != nil {
			return err
		}
	}
	return nil
}

// call asks a gateway's API and reads the answer.
func (s *simulated) call(ctx context.Context, g *gateway, method, path, body string) ([]byte, error) {
	token, err := g.token()
	if err != nil {
		return nil, err
	}
	api := aimAt(g, loopback(g.https), false)
	defer api.client.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, method, api.url("fluxgate")+path, strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Authorization", "Bearer "+token)
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := api.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode >= 300 {
		err = fmt.Errorf("%s %s: %s %s", method, path, resp.Status, text)
	}
	return text, err
}
