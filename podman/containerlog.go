package podman

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/fluxgate/fluxgate/router"
)

// maxLine is where a line of an app without end is cut.
const maxLine = 64 << 10

// logQuery says which lines of a container's log.
type logQuery struct {
	tail   int       // only the last so many; 0: all
	since  time.Time // whole seconds; the zero time: from the beginning
	follow bool      // go on until the container ends
}

// containerLog calls fn for lines of the instance's container. Times are whole
// seconds: the API gives no more. CodeNotFound: there is no container.
func (n *Node) containerLog(ctx context.Context, instance string, q logQuery, fn func(router.LogLine) error) error {
	if !q.follow {
		var end context.CancelFunc
		ctx, end = n.call(ctx, changeCall)
		defer end()
	}
	query := url.Values{"stdout": {"true"}, "stderr": {"true"}, "timestamps": {"true"}}
	if q.tail > 0 {
		query.Set("tail", strconv.Itoa(q.tail))
	}
	if !q.since.IsZero() {
		query.Set("since", strconv.FormatInt(q.since.Unix(), 10))
	}
	if q.follow {
		query.Set("follow", "true")
	}
	resp, err := n.request(ctx, http.MethodGet, "/containers/"+url.PathEscape(containerName(instance))+"/logs", query, nil, "")
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	return n.engineError(ctx, readFrames(resp.Body, instance, fn))
}

// readFrames reads the stream that Docker's API calls multiplexed: a header of
// eight bytes, the stream's number and the length, then a line with its time
// before it. A line that was too long for the log driver comes in several
// frames, all but the last without a newline.
func readFrames(r io.Reader, instance string, fn func(router.LogLine) error) error {
	br := bufio.NewReader(r)
	partial := map[byte]*router.LogLine{}
	var header [8]byte
	for {
		if _, err := io.ReadFull(br, header[:]); err != nil {
			if !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
				return err
			}
			for _, name := range []byte{1, 2} { // what the app wrote last need not end with a newline
				if l := partial[name]; l != nil {
					if err := fn(*l); err != nil {
						return err
					}
				}
			}
			return nil
		}
		text := make([]byte, binary.BigEndian.Uint32(header[4:]))
		if _, err := io.ReadFull(br, text); err != nil {
			return nil //nolint:nilerr // the stream ended within a line: the container is being removed
		}
		line, whole := parseFrame(header[0], string(text), instance)
		if p := partial[header[0]]; p != nil {
			if len(p.Text) < maxLine {
				p.Text += line.Text
			}
			line = *p
			delete(partial, header[0])
		}
		if !whole {
			partial[header[0]] = &line
			continue
		}
		if err := fn(line); err != nil {
			return err
		}
	}
}

func parseFrame(stream byte, text, instance string) (line router.LogLine, whole bool) {
	line = router.LogLine{Instance: instance, Stream: "stdout"}
	if stream == 2 {
		line.Stream = "stderr"
	}
	text, whole = strings.CutSuffix(text, "\n")
	if at, rest, ok := strings.Cut(text, " "); ok {
		if t, err := time.Parse(time.RFC3339Nano, at); err == nil {
			line.At, text = t.UTC(), rest
		}
	}
	line.Text = strings.TrimSuffix(text, "\r")
	return line, whole
}

// archiveLog puts the log of an instance's container aside.
func (n *Node) archiveLog(ctx context.Context, app, instance string) error {
	var lines []router.LogLine
	err := n.containerLog(ctx, instance, logQuery{}, func(l router.LogLine) error {
		lines = append(lines, l)
		return nil
	})
	if isCode(err, router.CodeNotFound) {
		return nil
	}
	// What was read before a failure is worth keeping too.
	return errors.Join(err, n.archive.add(app, instance, lines))
}

// Tail is the last lines of what the instance's container wrote, also of one
// that has ended. CodeNotFound: there is no container.
func (n *Node) Tail(ctx context.Context, in router.Instance, lines int) (string, error) {
	var texts []string
	err := n.containerLog(ctx, in.ID, logQuery{tail: max(lines, 1)}, func(l router.LogLine) error {
		texts = append(texts, l.Text)
		return nil
	})
	return strings.Join(texts, "\n"), err
}
