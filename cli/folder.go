package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"sort"
	"strings"

	"github.com/moby/patternmatcher"
	"github.com/moby/patternmatcher/ignorefile"

	"github.com/fluxgate/fluxgate/router"
)

// maxFolder is the most that a push sends, in bytes before compression.
const maxFolder = 2 << 30

// manifestName is the manifest's name in an app's folder.
const manifestName = "fluxgate.toml"

// folder is what a push sends of a directory: the chosen entries, sorted.
type folder struct {
	root    string // what the entries' names are relative to
	entries []entry
	size    int64 // of all files together
}

// entry is a file, a directory or a symbolic link.
type entry struct {
	name string // relative, with slashes
	info fs.FileInfo
	link string // target of a symbolic link
}

// scan chooses what of root is sent to make an image from source, and refuses
// what is surely a mistake.
//
// For a Containerfile that is everything but what .containerignore (or else
// .dockerignore) leaves out; the Containerfile itself is always sent. For a
// static site it is the site's folder without hidden files, which the server
// would not serve. The manifest is never part of it.
func scan(root string, source router.Source) (*folder, error) {
	if err := checkFolder(root); err != nil {
		return nil, err
	}
	matcher, err := ignoreMatcher(root)
	if err != nil {
		return nil, err
	}
	f := &folder{root: root}
	keep := selection{source: source, matcher: matcher}
	if err := f.walk("", keep, patternmatcher.MatchInfo{}); err != nil {
		return nil, err
	}
	if !slices.ContainsFunc(f.entries, func(e entry) bool { return !e.info.IsDir() }) {
		return nil, router.Errorf(router.CodeInvalid, "there is nothing to send in %s: it is empty, or the ignore file leaves everything out", filepath.Join(root, keep.under()))
	}
	f.addParents()
	sort.Slice(f.entries, func(i, j int) bool { return f.entries[i].name < f.entries[j].name })
	return f, nil
}

// checkFolder refuses folders that nobody means to push.
func checkFolder(root string) error {
	abs, err := filepath.Abs(root)
	if err == nil {
		abs, err = filepath.EvalSymlinks(abs)
	}
	if err != nil {
		return router.Errorf(router.CodeInvalid, "cannot read the folder %s: %w", root, err)
	}
	info, err := os.Stat(abs)
	switch {
	case err != nil:
		return router.Errorf(router.CodeInvalid, "cannot read the folder %s: %w", root, err)
	case !info.IsDir():
		return router.Errorf(router.CodeInvalid, "%s is not a folder", root)
	}
	home, err := os.UserHomeDir()
	if err == nil {
		if h, err := filepath.EvalSymlinks(home); err == nil {
			home = h
		}
	}
	holdsHome := home != "" && (abs == home || strings.HasPrefix(home, strings.TrimSuffix(abs, "/")+"/"))
	if abs == "/" || holdsHome {
		return router.Errorf(router.CodeInvalid, "%s is not an app's folder: a push sends everything in it. Go into the app's folder, or name it: fluxgate push DIR", abs)
	}
	return nil
}

// ignoreMatcher reads the folder's ignore file; nil where there is none.
func ignoreMatcher(root string) (*patternmatcher.PatternMatcher, error) {
	for _, name := range []string{".containerignore", ".dockerignore"} {
		file, err := os.Open(filepath.Join(root, name))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, router.Errorf(router.CodeInvalid, "cannot read %s: %w", name, err)
		}
		defer file.Close()
		patterns, err := ignorefile.ReadAll(file)
		if err != nil {
			return nil, router.Errorf(router.CodeInvalid, "cannot read %s: %w", name, err)
		}
		matcher, err := patternmatcher.New(patterns)
		if err != nil {
			return nil, router.Errorf(router.CodeInvalid, "%s: %w", name, err)
		}
		return matcher, nil
	}
	return nil, nil
}

// selection says which entries are sent.
type selection struct {
	source  router.Source
	matcher *patternmatcher.PatternMatcher
}

// under is the folder that holds everything sent, "" for the root.
func (s selection) under() string {
	if s.source.Kind == router.SourceStatic && s.source.Path != "." {
		return s.source.Path
	}
	return ""
}

// always reports whether an entry is sent whatever the ignore file says.
func (s selection) always(name string) bool {
	return s.source.Kind == router.SourceContainerfile && name == s.source.Path
}

// never reports whether an entry is of no use to the build.
func (s selection) never(name string) bool {
	if name == manifestName {
		return true // a change of settings alone needs no build
	}
	if s.source.Kind != router.SourceStatic {
		return false
	}
	under := s.under()
	if name == under || strings.HasPrefix(under, name+"/") {
		return false
	}
	if under != "" && !strings.HasPrefix(name, under+"/") {
		return true
	}
	base := path.Base(name)
	return strings.HasPrefix(base, ".") && base != ".well-known"
}

// walk adds what is chosen of one directory and those below it.
func (f *folder) walk(dir string, keep selection, parent patternmatcher.MatchInfo) error {
	list, err := os.ReadDir(filepath.Join(f.root, filepath.FromSlash(dir)))
	if err != nil {
		return router.Errorf(router.CodeInvalid, "cannot read the folder: %w", err)
	}
	for _, d := range list {
		name := path.Join(dir, d.Name())
		if keep.never(name) {
			continue
		}
		ignored, match := false, patternmatcher.MatchInfo{}
		if keep.matcher != nil {
			if ignored, match, err = keep.matcher.MatchesUsingParentResults(name, parent); err != nil {
				return router.Errorf(router.CodeInvalid, "the ignore file: %w", err)
			}
		}
		ignored = ignored && !keep.always(name)
		info, err := d.Info()
		if err != nil {
			return router.Errorf(router.CodeInvalid, "cannot read the folder: %w", err)
		}
		if d.IsDir() {
			if !ignored && (keep.under() == "" || name == keep.under() || strings.HasPrefix(name, keep.under()+"/")) {
				f.entries = append(f.entries, entry{name: name, info: info})
			}
			// Below an ignored directory, a later "!pattern" or the
			// Containerfile may still be wanted.
			if !ignored || keep.matcher.Exclusions() || strings.HasPrefix(keep.source.Path, name+"/") {
				if err := f.walk(name, keep, match); err != nil {
					return err
				}
			}
			continue
		}
		if ignored {
			continue
		}
		if err := f.add(name, info); err != nil {
			return err
		}
	}
	return nil
}

// add takes a file or link in; sockets, pipes and devices are left out.
func (f *folder) add(name string, info fs.FileInfo) error {
	e := entry{name: name, info: info}
	switch {
	case info.Mode().IsRegular():
		f.size += info.Size()
		if f.size > maxFolder {
			return router.Errorf(router.CodeInvalid, "the folder %s holds more than %s; leave out what the build does not need with a .containerignore file, or push the app's own folder", f.root, router.Bytes(maxFolder))
		}
	case info.Mode()&fs.ModeSymlink != 0:
		target, err := os.Readlink(filepath.Join(f.root, filepath.FromSlash(name)))
		if err != nil {
			return router.Errorf(router.CodeInvalid, "cannot read the folder: %w", err)
		}
		e.link = target
	default:
		return nil
	}
	f.entries = append(f.entries, e)
	return nil
}

// addParents adds the directories that lead to chosen entries and were not
// chosen themselves.
func (f *folder) addParents() {
	have := map[string]bool{".": true}
	for _, e := range f.entries {
		if e.info.IsDir() {
			have[e.name] = true
		}
	}
	for _, e := range f.entries {
		for dir := path.Dir(e.name); !have[dir]; dir = path.Dir(dir) {
			have[dir] = true
			if info, err := os.Stat(filepath.Join(f.root, filepath.FromSlash(dir))); err == nil {
				f.entries = append(f.entries, entry{name: dir, info: info})
			}
		}
	}
}

// detect finds out what a folder is when its manifest does not say.
func detect(root string) (router.Source, error) {
	for _, name := range []string{"Containerfile", "Dockerfile"} {
		if info, err := os.Stat(filepath.Join(root, name)); err == nil && info.Mode().IsRegular() {
			return router.Source{Kind: router.SourceContainerfile, Path: name}, nil
		}
	}
	if info, err := os.Stat(filepath.Join(root, "index.html")); err == nil && info.Mode().IsRegular() {
		return router.Source{Kind: router.SourceStatic, Path: "."}, nil
	}
	return router.Source{}, router.Errorf(router.CodeInvalid, "%s holds no Containerfile, Dockerfile or index.html; add one, say what to build below [build] in %s, or push an image with --image", root, manifestName)
}

// checkSource says what is wrong with what a manifest or flag says to build.
func checkSource(root string, source router.Source) error {
	if source.Kind == router.SourceImage {
		return nil
	}
	info, err := os.Stat(filepath.Join(root, filepath.FromSlash(source.Path)))
	wrong := func(limit, remedy string) error {
		return router.Invalid(manifestName, []router.Violation{{
			Field: "build." + string(source.Kind), Value: fmt.Sprintf("%q", source.Path), Limit: limit, Remedy: remedy,
		}})
	}
	switch {
	case err != nil:
		return wrong(fmt.Sprintf("there is no such thing in %s", root), "correct the path, or add what it names")
	case source.Kind == router.SourceContainerfile && !info.Mode().IsRegular():
		return wrong("a file", "name the Containerfile itself")
	case source.Kind == router.SourceStatic && !info.IsDir():
		return wrong("a folder", "name the folder that holds index.html")
	}
	return nil
}

// nameFrom makes an app's name of a folder's or an image's; "" where nothing is
// left of it.
func nameFrom(s string) string {
	var b strings.Builder
	for _, r := range strings.ToLower(s) {
		if (r >= 'a' && r <= 'z') || (r >= '0' && r <= '9') {
			b.WriteRune(r)
		} else if b.Len() > 0 && !strings.HasSuffix(b.String(), "-") {
			b.WriteByte('-')
		}
	}
	name := strings.Trim(b.String(), "-")
	if name != "" && name[0] >= '0' && name[0] <= '9' {
		name = "app-" + name
	}
	if len(name) > 40 {
		name = name[:40]
	}
	return strings.TrimRight(name, "-")
}

// nameFromImage is nameFrom the last part of a reference, without tag or digest.
func nameFromImage(ref string) string {
	ref, _, _ = strings.Cut(ref, "@")
	ref = ref[strings.LastIndexByte(ref, '/')+1:]
	ref, _, _ = strings.Cut(ref, ":")
	return nameFrom(ref)
}
