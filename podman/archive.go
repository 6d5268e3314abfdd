package podman

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"github.com/fluxgate/fluxgate/router"
)

// archiveSize is how much log of an app's removed containers is kept.
const archiveSize = 10 << 20

// archive keeps the logs of containers that are gone, in one file per app:
// DataDir/logs/APP.log, a JSON object per line, oldest first. It is safe for
// concurrent use within one process.
type archive struct {
	dir string
	mu  sync.Mutex
}

func newArchive(dataDir string) *archive { return &archive{dir: filepath.Join(dataDir, "logs")} }

// path is the app's file. Names that could lead elsewhere have none.
func (a *archive) path(app string) (string, error) {
	if bad := router.CheckAppName(app); bad != nil {
		return "", router.Errorf(router.CodeInvalid, "there is no log of %q: %s", app, bad.Limit)
	}
	return filepath.Join(a.dir, app+".log"), nil
}

// add appends all lines of one instance, as far as they are not there yet:
// archiving the same container twice, as after a crash between the archive and
// the removal, leaves them once. The oldest lines beyond archiveSize go.
func (a *archive) add(app, instance string, lines []router.LogLine) error {
	name, err := a.path(app)
	if err != nil || len(lines) == 0 {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := os.MkdirAll(a.dir, 0o700); err != nil {
		return err
	}
	old, err := os.ReadFile(name)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if have := bytes.Count(old, instanceMark(instance)); have < len(lines) {
		lines = lines[have:]
	} else {
		return nil
	}
	var fresh bytes.Buffer
	enc := json.NewEncoder(&fresh)
	enc.SetEscapeHTML(false)
	for _, l := range lines {
		if err := enc.Encode(l); err != nil {
			return err
		}
	}
	if len(old)+fresh.Len() <= archiveSize {
		f, err := os.OpenFile(name, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
		if err != nil {
			return err
		}
		_, err = f.Write(fresh.Bytes())
		return errors.Join(err, f.Close())
	}
	// A tenth of room, so that not every addition from now on rewrites the file.
	all := newest(append(old, fresh.Bytes()...), archiveSize-archiveSize/10)
	if err := os.WriteFile(name+".new", all, 0o600); err != nil {
		return errors.Join(err, os.Remove(name+".new"))
	}
	return os.Rename(name+".new", name)
}

// instanceMark is how a line of the instance can be told without decoding: no
// quote in a JSON string goes unescaped, so it stands for the field only.
func instanceMark(instance string) []byte {
	return []byte(`","instance":"` + instance + `","stream":"`)
}

// newest is the last lines of text that fit into limit.
func newest(text []byte, limit int) []byte {
	if len(text) <= limit {
		return text
	}
	text = text[len(text)-limit:]
	return text[bytes.IndexByte(text, '\n')+1:]
}

// read is what is kept of the app. A line that a crash cut off is left out.
func (a *archive) read(app string) ([]router.LogLine, error) {
	name, err := a.path(app)
	if err != nil {
		return nil, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	f, err := os.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var lines []router.LogLine
	r := bufio.NewReader(f)
	for {
		text, err := r.ReadBytes('\n')
		if err != nil {
			return lines, nil //nolint:nilerr // the end, or as far as it can be read
		}
		var l router.LogLine
		if json.Unmarshal(text, &l) == nil {
			lines = append(lines, l)
		}
	}
}

// drop forgets the app's log.
func (a *archive) drop(app string) error {
	name, err := a.path(app)
	if err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
