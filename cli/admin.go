package cli

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/fluxgate/fluxgate/router"
)

// localContext is the name of the context that `up` writes.
const localContext = "local"

// announceAdmin writes the root certificate to the data folder and a context
// with an admin token for this user, so that the next command on this machine
// is just `fluxgate push`.
func (g *gatewayProcess) announceAdmin(ctx context.Context) error {
	root, err := g.edge.RootPEM(ctx)
	if err != nil {
		return err
	}
	name := g.dir.join("ca.crt")
	if old, err := os.ReadFile(name); err != nil || !bytes.Equal(old, root) {
		if err := writeFileAtomic(name, root, 0o644); err != nil {
			return dataDirError(g.dir.path, err)
		}
	}
	token, err := g.adminToken(ctx)
	if err != nil {
		return err
	}
	// The platform's hostname need not resolve on this machine.
	host := "127.0.0.1"
	if a, ok := g.https.Addr().(*net.TCPAddr); ok && !a.IP.IsUnspecified() {
		host = a.IP.String()
	}
	url := platformURL(g.Domain, port(g.https))
	err = WriteContext(localContext, Context{
		URL: url, Address: net.JoinHostPort(host, fmt.Sprint(port(g.https))), Token: token.Reveal(), CA: string(root),
	})
	if err != nil {
		return err
	}
	g.say("http", "%s", g.http.Addr())
	g.say("https", "%s", g.https.Addr())
	g.say("root", "%s (curl --cacert; browsers import it)", name)
	return nil
}

// adminToken is the token of the context that an earlier start wrote, if the
// store still knows it, else a new one.
func (g *gatewayProcess) adminToken(ctx context.Context) (router.Secret, error) {
	path, err := contextsPath()
	if err != nil {
		return router.Secret{}, err
	}
	file, err := readContexts(path)
	if err != nil {
		return router.Secret{}, err
	}
	text := file.Contexts[localContext].Token
	if id, ok := router.TokenID(text); ok {
		if t, err := g.store.Token(ctx, id); err == nil && t.Matches(text) {
			return router.NewSecret(text), nil
		}
	}
	host, err := os.Hostname()
	if err != nil {
		host = "this machine"
	}
	t, secret := router.NewToken("admin on "+host, time.Now())
	return secret, g.store.PutToken(ctx, t)
}
