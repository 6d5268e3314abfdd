package cli

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/fluxgate/fluxgate/podman"
	"github.com/fluxgate/fluxgate/podman/registry"
	"github.com/fluxgate/fluxgate/router"
)

const (
	nodeUser     = "fluxgate-node" // what nodes log in as
	collectEvery = time.Hour
	collectLimit = 30 * time.Minute
)

// openRegistry opens the registry that images travel through.
func (g *gatewayProcess) openRegistry(ctx context.Context) error {
	installation, err := g.store.Installation(ctx)
	if err != nil {
		return err
	}
	secret := sha256.Sum256([]byte("fluxgate registry " + installation))
	password := rand.Text()
	o := registry.Options{
		Secret: hex.EncodeToString(secret[:]), Log: g.Log, Pushed: g.imagePushed,
		Authenticate: func(ctx context.Context, r *http.Request, _ string, _ registry.Action) (string, error) {
			return g.registryUser(ctx, r, password)
		},
	}
	if err := registryStorage(&o, orElse(g.Registry, g.dir.join("registry"))); err != nil {
		return err
	}
	if g.registry, err = registry.New(ctx, o); err != nil {
		return fmt.Errorf("--registry: %w", err)
	}
	g.onStop(func(context.Context) { _ = g.registry.Close() })
	err = g.pool.UseDepot(podman.Depot{
		Handler: g.registry, Host: router.RegistryHost(g.Domain), User: nodeUser, Password: password, Layers: g.registryLayers,
	})
	if err != nil {
		return err
	}
	g.onStop(func(context.Context) { g.pool.CloseDepot() })
	return nil
}

// registryUser says who a client of the registry is: a node, or the holder of a
// token, which is the password.
func (g *gatewayProcess) registryUser(ctx context.Context, r *http.Request, password string) (string, error) {
	user, text, ok := r.BasicAuth()
	if !ok {
		return "", registry.ErrUnauthorized
	}
	if user == nodeUser && subtle.ConstantTimeCompare([]byte(text), []byte(password)) == 1 {
		return nodeUser, nil
	}
	id, ok := router.TokenID(text)
	if !ok {
		return "", registry.ErrUnauthorized
	}
	t, err := g.store.Token(ctx, id)
	switch {
	case router.CodeOf(err) == router.CodeNotFound || err == nil && !t.Matches(text):
		return "", registry.ErrUnauthorized
	case err != nil:
		return "", err
	}
	return t.Name, nil
}

// registryLayers are the layers of an image in the registry; none where it is
// not there.
func (g *gatewayProcess) registryLayers(ctx context.Context, app, tag string) ([]podman.Layer, error) {
	img, err := g.registry.Image(ctx, app, tag)
	if errors.Is(err, registry.ErrUnknown) {
		return nil, nil
	}
	layers := make([]podman.Layer, len(img.Layers))
	for i, l := range img.Layers {
		layers[i] = podman.Layer(l)
	}
	return layers, err
}

// imagePushed deploys an image that somebody pushed: NAME:TAG is for the app
// NAME. What is no container image, or in a repository that no app can be named
// like, is only kept.
func (g *gatewayProcess) imagePushed(ctx context.Context, p registry.Push) error {
	if p.User == nodeUser || router.CheckAppName(p.Repository) != nil || strings.HasPrefix(p.Tag, "sha256-") {
		return nil
	}
	img, err := g.registry.Image(ctx, p.Repository, p.Tag)
	if err != nil {
		return err
	}
	if !img.Runs() {
		return nil
	}
	if err := g.registry.Tag(ctx, p.Repository, podman.DepotTag(img.ID), img.Manifest); err != nil {
		return err
	}
	if g.api == nil {
		return errors.New("the image is stored, but the gateway is still starting: push again")
	}
	reference := router.RegistryHost(g.Domain) + "/" + p.Repository + "@" + img.Manifest
	if err := g.api.PushImage(ctx, p.Repository, reference, p.User); err != nil {
		return fmt.Errorf("the image is stored, but %s was not deployed: %w", p.Repository, err)
	}
	return nil
}

// collect removes from the registry, now and then, what no release needs.
func (g *gatewayProcess) collect(ctx context.Context) {
	ticker := time.NewTicker(collectEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		// One of the gateways does it; they may share the storage.
		if _, mine, err := g.store.Acquire(ctx, "registry", g.id, collectEvery/2); err != nil || !mine && g.sharedRegistry() {
			continue
		}
		cctx, cancel := context.WithTimeout(ctx, collectLimit)
		done, err := g.registry.Collect(cctx, g.keptImages)
		cancel()
		if err != nil && ctx.Err() == nil {
			g.Log.Warn("the registry is not cleaned up; trying again later", "err", err)
		} else if done.Blobs > 0 {
			g.Log.Info("the registry is cleaned up", "manifests", done.Manifests, "blobs", done.Blobs, "bytes", done.Bytes)
		}
	}
}

// sharedRegistry reports whether other gateways may use the same storage.
func (g *gatewayProcess) sharedRegistry() bool { return g.Registry != "" }

// keptImages says what of a repository stays: the images of an app's releases,
// and all of what is no app's.
func (g *gatewayProcess) keptImages(repository string) (registry.Keep, error) {
	if router.CheckAppName(repository) != nil {
		return registry.Keep{All: true}, nil
	}
	keep := registry.Keep{Tags: map[string]bool{}}
	if st, ok := g.catalog.Get(repository); ok {
		for _, rel := range st.Releases {
			keep.Tags[podman.DepotTag(rel.Image)] = true
		}
	}
	return keep, nil
}

// atRegistry lets requests to the registry's hostname through to it, and all
// others to the control API.
func (g *gatewayProcess) atRegistry(api http.Handler) http.Handler {
	name := router.RegistryHost(g.Domain)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host := r.Host
		if h, _, err := net.SplitHostPort(host); err == nil {
			host = h
		}
		if strings.EqualFold(host, name) {
			g.registry.ServeHTTP(w, r)
			return
		}
		api.ServeHTTP(w, r)
	})
}
