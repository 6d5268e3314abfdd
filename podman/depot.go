package podman

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/containers/podman/v4/pkg/bindings/images"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/fluxgate/fluxgate/router"
)

// Depot is the registry that images travel through: a node that has an image
// pushes it, a node that needs it pulls what layers it lacks. Nodes reach it on
// their own loopback, through the SSH connection or on this machine, and log in
// with User and Password; nobody else may know these.
type Depot struct {
	Handler  http.Handler
	Host     string // its public name: images below it are taken from here directly
	User     string
	Password string

	// Layers are those of an image in the depot, as they travel; none and no
	// error where it is not there.
	Layers func(ctx context.Context, app, tag string) ([]Layer, error)
}

// Layer is one layer of an image.
type Layer struct {
	Digest string
	Size   int64 // bytes
}

// DepotTag is the tag by which the depot knows an image: its ID.
func DepotTag(image string) string { return strings.ReplaceAll(image, ":", "-") }

// errNoDepot says that a node cannot reach the depot by design.
var errNoDepot = errors.New("the node has no way to the registry")

// depot is the Pool's side of a Depot.
type depot struct {
	Depot
	server *http.Server
	local  net.Listener // for nodes on this machine
	life   context.Context
	end    context.CancelFunc
	group  sync.WaitGroup
}

// UseDepot has images travel through a depot from now on. It must be called
// before the Pool is used, and CloseDepot after.
func (p *Pool) UseDepot(d Depot) error {
	local, err := new(net.ListenConfig).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	p.depot = &depot{Depot: d, local: local, server: &http.Server{Handler: d.Handler, ReadHeaderTimeout: quickCall, IdleTimeout: time.Minute}}
	p.depot.life, p.depot.end = context.WithCancel(context.Background())
	p.depot.serve(local)
	return nil
}

// CloseDepot ends what travels.
func (p *Pool) CloseDepot() {
	if p.depot == nil {
		return
	}
	p.depot.end()
	_ = p.depot.server.Close()
	p.depot.group.Wait()
}

// serve answers on a listener until it is closed.
func (d *depot) serve(ln net.Listener) { d.group.Go(func() { _ = d.server.Serve(ln) }) }

// addr is where a node reaches the depot.
func (d *depot) addr(ctx context.Context, n *Node) (string, error) {
	switch {
	case n.tunnel != nil:
		return n.tunnel.Offer(ctx, d.serve)
	case strings.HasPrefix(n.url, "unix://"):
		return d.local.Addr().String(), nil
	}
	return "", errNoDepot
}

// login is the header by which the engine logs in.
func (d *depot) login() (http.Header, error) {
	text, err := json.Marshal(map[string]string{"username": d.User, "password": d.Password})
	return http.Header{"X-Registry-Auth": {base64.URLEncoding.EncodeToString(text)}}, err
}

// pull brings an image from the depot onto a node, and returns its ID. what is
// app:tag or app@digest.
func (d *depot) pull(ctx context.Context, n *Node, what string, out io.Writer) (string, error) {
	addr, err := d.addr(ctx, n)
	if err != nil {
		return "", err
	}
	header, err := d.login()
	if err != nil {
		return "", err
	}
	ctx, end := n.call(ctx, copyCall)
	defer end()
	name := addr + "/" + what
	resp, err := n.send(ctx, http.MethodPost, "/images/pull", url.Values{"reference": {name}, "policy": {"always"}, "tlsVerify": {"false"}}, nil, header)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	id, err := n.readPull(ctx, resp.Body, what, out)
	if err != nil {
		return "", err
	}
	// The name holds the address of this moment: nobody shall find it there.
	repo, tag, tagged := strings.Cut(strings.TrimPrefix(name, addr), ":")
	query := url.Values{}
	if tagged && !strings.Contains(repo, "@") {
		query = url.Values{"repo": {addr + repo}, "tag": {tag}}
	}
	if len(query) > 0 {
		if resp, err := n.send(ctx, http.MethodPost, "/images/"+strings.TrimPrefix(id, "sha256:")+"/untag", query, nil, nil); err == nil {
			_ = resp.Body.Close()
		}
	}
	return id, nil
}

// push puts an image of a node into the depot.
func (d *depot) push(ctx context.Context, n *Node, app, image string) error {
	addr, err := d.addr(ctx, n)
	if err != nil {
		return err
	}
	header, err := d.login()
	if err != nil {
		return err
	}
	ctx, end := n.call(ctx, copyCall)
	defer end()
	query := url.Values{"destination": {addr + "/" + app + ":" + DepotTag(image)}, "tlsVerify": {"false"}}
	if data, err := images.GetImage(ctx, image, nil); err != nil {
		return n.engineError(ctx, err)
	} else if data.ManifestType == v1.MediaTypeImageManifest {
		// Several times as fast as gzip, both ways, and smaller. Docker's form has
		// no zstd: the engine would make another image of it, with another ID.
		query.Set("compressionFormat", "zstd")
	}
	resp, err := n.send(ctx, http.MethodPost, "/images/"+strings.TrimPrefix(image, "sha256:")+"/push", query, nil, header)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	return pushResult(resp.Body)
}

// pushResult reads what the engine says of a push: nothing, or one report per
// line, of which the last may hold an error.
func pushResult(r io.Reader) error {
	dec := json.NewDecoder(r)
	for {
		var report struct {
			Error string `json:"error"`
		}
		err := dec.Decode(&report)
		var other *json.UnmarshalTypeError
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case errors.As(err, &other): // a plain text: no report
		case err != nil:
			return err
		case report.Error != "":
			return router.Errorf(router.CodeUnavailable, "the image cannot be put into the registry: %s", report.Error)
		}
	}
}

// land puts an image that was made on a node into the depot, in the
// background: where it is needed sooner, fetch puts it there.
func (p *Pool) land(n *Node, app, image string) {
	d := p.depot
	if d == nil {
		return
	}
	d.group.Go(func() {
		if err := p.deposit(d.life, n, app, image); err != nil && !errors.Is(err, errNoDepot) && d.life.Err() == nil {
			n.log.Warn("an image is not in the registry yet; it is put there when another node needs it", "image", image, "app", app, "error", err)
		}
	})
}

// deposit puts an image into the depot unless it is there; once, however many
// want it there.
func (p *Pool) deposit(ctx context.Context, n *Node, app, image string) error {
	done := p.copies.DoChan("deposit "+app+" "+image, func() (any, error) {
		dctx, cancel := context.WithTimeout(p.depot.life, copyCall)
		defer cancel()
		layers, err := p.depot.Layers(dctx, app, DepotTag(image))
		if err != nil {
			return nil, err
		}
		if len(layers) == 0 {
			if err := p.depot.push(dctx, n, app, image); err != nil {
				return nil, err
			}
			if layers, err = p.depot.Layers(dctx, app, DepotTag(image)); err != nil {
				return nil, err
			}
		}
		p.inventory.learn(image, layers)
		return nil, nil
	})
	select {
	case r := <-done:
		return r.Err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// throughDepot brings an image to a node by way of the depot.
func (p *Pool) throughDepot(ctx context.Context, to *Node, app, image string) error {
	if _, err := p.depot.addr(ctx, to); err != nil {
		return err
	}
	layers, err := p.depot.Layers(ctx, app, DepotTag(image))
	if err != nil {
		return err
	}
	if len(layers) == 0 {
		from, err := p.holder(ctx, to, image)
		if err != nil {
			return err
		}
		if err := p.deposit(ctx, from, app, image); err != nil {
			return err
		}
	} else {
		p.inventory.learn(image, layers)
	}
	id, err := p.depot.pull(ctx, to, app+":"+DepotTag(image), io.Discard)
	if err != nil {
		return err
	}
	if id != image {
		return router.Errorf(router.CodeInternal, "the registry gave the image %s for %s", id, image)
	}
	to.handOut(image)
	return nil
}

// holder is a node that has an image.
func (p *Pool) holder(ctx context.Context, not *Node, image string) (*Node, error) {
	var errs []error
	for _, n := range p.nodes() {
		if n == not || n.Node().Down {
			continue
		}
		there, err := n.ImageExists(ctx, image)
		if there {
			return n, nil
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(append(errs, router.Errorf(router.CodeUnavailable, "no node that answers has the image %s: push the app again", image))...)
}

// fromDepot is the part of an image's name below the depot's public one.
func (p *Pool) fromDepot(src router.Source) (string, bool) {
	if p.depot == nil || src.Kind != router.SourceImage {
		return "", false
	}
	host, rest, ok := strings.Cut(src.Path, "/")
	name, _, _ := strings.Cut(host, ":")
	return rest, ok && name == p.depot.Host
}

// Prefetch brings an image to a node ahead of its need.
func (p *Pool) Prefetch(ctx context.Context, node, app, image string) error {
	n, err := p.node(node)
	if err != nil {
		return err
	}
	if there, err := n.ImageExists(ctx, image); there || err != nil {
		return err
	}
	return p.fetch(ctx, n, app, image)
}
