package podman

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"path"
	"regexp"
	"strconv"
	"strings"

	"github.com/fluxgate/fluxgate/router"
)

// Build makes an image on the node from what was pushed and returns its ID.
// files is the context as tar.gz, with paths as in src; it may be nil for
// SourceImage. Output of the build is written to out as it comes, whole lines
// at a time. CodeFailed: the build failed, and the message names the step that
// did. CodeInvalid: the files cannot be used.
func (n *Node) Build(ctx context.Context, app string, src router.Source, files io.Reader, out io.Writer) (string, error) {
	if out == nil {
		out = io.Discard
	}
	var id string
	var err error
	switch src.Kind {
	case router.SourceContainerfile:
		id, err = n.buildContainerfile(ctx, app, src.Path, files, out)
	case router.SourceStatic:
		id, err = n.buildStatic(ctx, app, src.Path, files, out)
	case router.SourceImage:
		id, err = n.pull(ctx, src.Path, out)
	default:
		return "", router.Errorf(router.CodeInvalid, "%q is no kind of source", src.Kind)
	}
	if err != nil {
		return "", err
	}
	return n.handOut(id), nil
}

// imageLabels say whose image it is. It is one label, for each makes one more
// step and layer of a build, in an order by chance that no cache would match;
// and it is not a container's label, for containers inherit their image's, and
// one that somebody else starts from the image is not ours.
func (n *Node) imageLabels(app string) map[string]string {
	return map[string]string{labelImage: n.owner + "/" + app}
}

func (n *Node) buildContainerfile(ctx context.Context, app, file string, files io.Reader, out io.Writer) (string, error) {
	file = path.Clean(strings.TrimPrefix(file, "./"))
	query, err := n.buildQuery(app, file)
	if err != nil {
		return "", err
	}
	ctx, end := n.call(ctx, buildCall)
	defer end()
	// The engine reads the whole upload before it builds; an error on the way
	// ends the request, and no build begins.
	body, stop := stream(func(w io.Writer) error { return repack(files, file, w) })
	defer stop()
	resp, err := n.request(ctx, http.MethodPost, "/build", query, body, "application/x-tar")
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	id, err := followBuild(resp.Body, out)
	var ours *router.Error
	switch {
	case err == nil:
		return id, nil
	case !errors.As(err, &ours):
		return "", n.engineError(ctx, err)
	}
	if full := n.diskFull(err.Error()); full != nil {
		return "", full
	}
	return "", err
}

func (n *Node) buildQuery(app, file string) (url.Values, error) {
	labels, err := json.Marshal(n.imageLabels(app))
	if err != nil {
		return nil, err
	}
	names, err := json.Marshal([]string{file})
	if err != nil {
		return nil, err
	}
	return url.Values{
		"dockerfile": {string(names)}, "labels": {string(labels)}, "layers": {"1"}, "rm": {"1"}, "forcerm": {"1"},
		"pullpolicy": {"missing"}, "outputformat": {"application/vnd.oci.image.manifest.v1+json"},
	}, nil
}

// repack writes the context as the tar stream that the engine gets.
func repack(files io.Reader, file string, w io.Writer) error {
	tw := tar.NewWriter(w)
	found := false
	err := readContext(files, func(h *tar.Header, content io.Reader) error {
		found = found || h.Name == file
		if err := tw.WriteHeader(h); err != nil {
			return err
		}
		_, err := io.Copy(tw, content)
		return err
	})
	if err != nil {
		return err
	}
	if !found {
		return router.Errorf(router.CodeInvalid, "there is no %s in the pushed folder", file)
	}
	return tw.Close()
}

var (
	stepLine  = regexp.MustCompile(`^(\[(\d+)/(\d+)\] )?STEP (\d+)/(\d+): (.*)`)
	imageLine = regexp.MustCompile(`^[0-9a-f]{64}$`)
	atStep    = regexp.MustCompile(`^building at STEP ".*": (?:while running runtime: )?`)
)

// buildMessage is one piece of the engine's answer to a build.
type buildMessage struct {
	Stream string `json:"stream"`
	Error  string `json:"error"`
}

// followBuild passes the build's output on and returns the image that it ends
// with. The last step of the last stage is the label that we add: it is left
// out, and not counted, so that the steps are those of the Containerfile.
func followBuild(r io.Reader, out io.Writer) (string, error) {
	dec := json.NewDecoder(r)
	var step, last string
	label := false // within our own step
	for {
		var m buildMessage
		if err := dec.Decode(&m); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return "", err
		}
		if m.Error != "" {
			return "", buildFailed(step, strings.TrimSpace(m.Error))
		}
		line := strings.TrimSpace(m.Stream)
		if s := stepLine.FindStringSubmatch(line); s != nil {
			total, _ := strconv.Atoi(s[5])
			if s[2] == s[3] { // the last stage, or the only one
				total--
			}
			if number, _ := strconv.Atoi(s[4]); number > total {
				label = true
				continue
			}
			step = fmt.Sprintf("%s%s/%d: %s", s[1], s[4], total, s[6])
			m.Stream = fmt.Sprintf("%sSTEP %s/%d: %s\n", s[1], s[4], total, s[6])
		}
		if label && strings.HasPrefix(line, "--> ") {
			continue
		}
		label = false
		if imageLine.MatchString(line) {
			last = line
		}
		if _, err := io.WriteString(out, m.Stream); err != nil {
			return "", err
		}
	}
	if last == "" {
		return "", router.Errorf(router.CodeFailed, "the build ended without an image%s", atStepText(step))
	}
	return imageID(last), nil
}

func atStepText(step string) string {
	if step == "" {
		return ""
	}
	return ", at step " + step
}

// buildFailed names the step that failed: "step 3/5: RUN false: exit status 1".
func buildFailed(step, message string) error {
	message = atStep.ReplaceAllString(message, "")
	if step == "" {
		return router.Errorf(router.CodeFailed, "the build failed: %s", message)
	}
	return router.Errorf(router.CodeFailed, "the build failed at step %s: %s", step, message)
}
