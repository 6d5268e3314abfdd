package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"mime"
	"net/http"
	"net/url"
	"os"
	"path"
	"strings"
)

// site serves the files of one folder. The folder must not change while it is
// served: entity tags and compressed copies are made once.
type site struct {
	root *os.Root // nothing outside of it can be opened, through symbolic links neither
	tags tags
	zips zips
}

func newSite(root *os.Root) *site { return &site{root: root} }

func (s *site) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("X-Content-Type-Options", "nosniff")
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		h.Set("Allow", "GET, HEAD")
		http.Error(w, "405 method not allowed", http.StatusMethodNotAllowed)
		return
	}
	name := path.Clean("/" + r.URL.Path)
	if hidden(name) {
		s.notFound(w, r)
		return
	}
	file, info, err := s.open(name)
	if err == nil && info.IsDir() {
		file.Close()
		if !strings.HasSuffix(r.URL.Path, "/") {
			redirect(w, r, name+"/")
			return
		}
		name = path.Join(name, "index.html")
		file, info, err = s.open(name)
	} else if err == nil && strings.HasSuffix(r.URL.Path, "/") {
		file.Close()
		redirect(w, r, name)
		return
	}
	if err == nil && !info.Mode().IsRegular() {
		file.Close()
		err = fs.ErrNotExist
	}
	switch {
	case err == nil:
		defer file.Close()
		s.serve(w, r, name, file, info)
	case errors.Is(err, fs.ErrPermission):
		http.Error(w, "403 forbidden", http.StatusForbidden)
	default: // an escape by a symbolic link is "not found" too: it gives nothing away
		s.notFound(w, r)
	}
}

// hidden reports whether a clean path goes through a dotfile. /.well-known is
// for the public (RFC 8615).
func hidden(name string) bool {
	if strings.ContainsAny(name, "\x00\\") {
		return true
	}
	for i, segment := range strings.Split(strings.TrimPrefix(name, "/"), "/") {
		if strings.HasPrefix(segment, ".") && (i > 0 || segment != ".well-known") {
			return true
		}
	}
	return false
}

func redirect(w http.ResponseWriter, r *http.Request, to string) {
	u := url.URL{Path: to, RawQuery: r.URL.RawQuery}
	http.Redirect(w, r, u.String(), http.StatusMovedPermanently)
}

func (s *site) open(name string) (*os.File, fs.FileInfo, error) {
	name = strings.TrimPrefix(name, "/")
	if name == "" {
		name = "."
	}
	file, err := s.root.Open(name)
	if err != nil {
		return nil, nil, err
	}
	info, err := file.Stat()
	if err != nil {
		file.Close()
		return nil, nil, err
	}
	return file, info, nil
}

// serve answers with the file, compressed where the client takes that and it
// is worth it. The two are different representations with entity tags of their
// own (RFC 9110 section 8.8.3); ranges are of the uncompressed one.
func (s *site) serve(w http.ResponseWriter, r *http.Request, name string, file *os.File, info fs.FileInfo) {
	h := w.Header()
	h.Set("Content-Type", contentType(name))
	// Caches may keep it and must ask again each time, so that a deploy shows at once.
	h.Set("Cache-Control", "no-cache")
	tag, err := s.tags.of(name, file, info)
	if err != nil {
		http.Error(w, "500 the file cannot be read", http.StatusInternalServerError)
		return
	}
	if compressible(h.Get("Content-Type"), info.Size()) {
		h.Add("Vary", "Accept-Encoding")
		if r.Header.Get("Range") == "" && acceptsGzip(r.Header.Values("Accept-Encoding")) {
			if zipped, ok := s.zips.of(name, file); ok {
				h.Set("Content-Encoding", "gzip")
				h.Set("ETag", `"`+tag+`-gzip"`)
				h.Set("Content-Length", fmt.Sprint(zipped.Len()))
				http.ServeContent(w, r, name, info.ModTime(), zipped)
				return
			}
		}
	}
	h.Set("ETag", `"`+tag+`"`)
	http.ServeContent(w, r, name, info.ModTime(), file)
}

// notFound answers 404 with the site's own page where it has one.
func (s *site) notFound(w http.ResponseWriter, r *http.Request) {
	file, info, err := s.open("/404.html")
	if err != nil || !info.Mode().IsRegular() {
		if err == nil {
			file.Close()
		}
		http.Error(w, "404 page not found", http.StatusNotFound)
		return
	}
	defer file.Close()
	h := w.Header()
	h.Set("Content-Type", contentType("404.html"))
	h.Set("Content-Length", fmt.Sprint(info.Size()))
	w.WriteHeader(http.StatusNotFound)
	if r.Method != http.MethodHead {
		_, _ = io.Copy(w, file) // a client that has gone is nobody's error
	}
}

// contentType goes by the name alone, so that it is the same on every machine:
// an image from scratch has no mime.types.
func contentType(name string) string {
	ext := strings.ToLower(path.Ext(name))
	if t, ok := moreTypes[ext]; ok {
		return t
	}
	if t := mime.TypeByExtension(ext); t != "" {
		return t
	}
	return "application/octet-stream"
}

// moreTypes are what the mime package does not know by itself.
var moreTypes = map[string]string{
	".atom":        "application/atom+xml",
	".csv":         "text/csv; charset=utf-8",
	".eot":         "application/vnd.ms-fontobject",
	".ico":         "image/x-icon",
	".map":         "application/json",
	".md":          "text/markdown; charset=utf-8",
	".mp3":         "audio/mpeg",
	".mp4":         "video/mp4",
	".ogg":         "audio/ogg",
	".otf":         "font/otf",
	".rss":         "application/rss+xml",
	".ttf":         "font/ttf",
	".txt":         "text/plain; charset=utf-8",
	".wav":         "audio/wav",
	".webm":        "video/webm",
	".webmanifest": "application/manifest+json",
	".woff":        "font/woff",
	".woff2":       "font/woff2",
	".zip":         "application/zip",
}
