package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"sync"

	"github.com/klauspost/compress/gzip"
)

const (
	hashedUpTo   = 32 << 20 // a larger file's tag is its size and time: hashing it would hold up its first reader
	zippedFrom   = 1 << 10  // a smaller file fits one packet anyway
	zippedUpTo   = 8 << 20  // compressing happens in memory
	zipsInMemory = 16 << 20
)

// tags are entity tags by name. Safe for concurrent use.
type tags struct{ m sync.Map }

func (t *tags) of(name string, file io.ReadSeeker, info fs.FileInfo) (string, error) {
	if v, ok := t.m.Load(name); ok {
		return v.(string), nil
	}
	tag := fmt.Sprintf("%x-%x", info.Size(), info.ModTime().UnixNano())
	if info.Size() <= hashedUpTo {
		sum := sha256.New()
		if _, err := io.Copy(sum, file); err != nil {
			return "", err
		}
		if _, err := file.Seek(0, io.SeekStart); err != nil {
			return "", err
		}
		tag = hex.EncodeToString(sum.Sum(nil)[:16])
	}
	t.m.Store(name, tag)
	return tag, nil
}

// zips are compressed copies by name, made when first asked for. Safe for
// concurrent use.
type zips struct {
	mu   sync.Mutex
	m    map[string][]byte
	size int
}

// of is the compressed file, or false where it is not smaller or the memory
// for such copies is used up.
func (z *zips) of(name string, file *os.File) (*bytes.Reader, bool) {
	z.mu.Lock()
	defer z.mu.Unlock() // the second who asks for a file waits for the first one's work
	b, ok := z.m[name]
	if !ok && z.size < zipsInMemory {
		b = compress(file)
		if z.m == nil {
			z.m = make(map[string][]byte)
		}
		z.m[name] = b
		z.size += len(b)
	}
	return bytes.NewReader(b), b != nil
}

// compress reads the whole file without moving its offset; nil where the
// result would not be smaller.
func compress(file *os.File) []byte {
	info, err := file.Stat()
	if err != nil {
		return nil
	}
	var out bytes.Buffer
	zw, _ := gzip.NewWriterLevel(&out, gzip.DefaultCompression)
	n, err := io.Copy(zw, io.NewSectionReader(file, 0, info.Size()))
	if err != nil || zw.Close() != nil || n != info.Size() || int64(out.Len()) >= n {
		return nil
	}
	return bytes.Clone(out.Bytes())
}

func compressible(contentType string, size int64) bool {
	if size < zippedFrom || size > zippedUpTo {
		return false
	}
	t, _, _ := strings.Cut(contentType, ";")
	switch {
	case strings.HasPrefix(t, "text/"), strings.HasSuffix(t, "+json"), strings.HasSuffix(t, "+xml"):
		return true
	}
	switch t {
	case "application/json", "application/javascript", "application/xml", "application/wasm",
		"application/vnd.ms-fontobject", "font/ttf", "font/otf", "image/x-icon", "image/bmp":
		return true
	}
	return false
}

// acceptsGzip reads Accept-Encoding (RFC 9110 section 12.5.3): gzip is taken
// when it, or else "*", is listed with a weight above 0.
func acceptsGzip(fields []string) bool {
	rest := false
	for _, item := range strings.Split(strings.Join(fields, ","), ",") {
		coding, params, _ := strings.Cut(item, ";")
		weight := 1.0
		if _, q, ok := strings.Cut(params, "="); ok {
			if v, err := strconv.ParseFloat(strings.TrimSpace(q), 64); err == nil {
				weight = v
			}
		}
		switch strings.ToLower(strings.TrimSpace(coding)) {
		case "gzip", "x-gzip":
			return weight > 0
		case "*":
			rest = weight > 0
		}
	}
	return rest
}
