package api

import (
	"context"
	"net/http"
	"net/url"
)

// Nodes lists the machines that run apps.
func (c *Client) Nodes(ctx context.Context) ([]Node, error) { return get[[]Node](ctx, c, "/v1/nodes") }

// HostKey is the SSH host key that a machine shows to the gateway.
func (c *Client) HostKey(ctx context.Context, node string) (HostKey, error) {
	return get[HostKey](ctx, c, "/v1/nodes/host-key?url="+url.QueryEscape(node))
}

// AddNode adds a machine, after the gateway has run a container there.
func (c *Client) AddNode(ctx context.Context, n AddNode) (Node, error) {
	return send[Node](ctx, c, http.MethodPost, "/v1/nodes", n)
}

// CordonNode drains a machine, or lets it take instances again.
func (c *Client) CordonNode(ctx context.Context, name string, on bool) (Node, error) {
	return send[Node](ctx, c, http.MethodPatch, "/v1/nodes/"+url.PathEscape(name), map[string]bool{"cordoned": on})
}

// RemoveNode forgets a machine; force also one that has instances.
func (c *Client) RemoveNode(ctx context.Context, name string, force bool) error {
	path := "/v1/nodes/" + url.PathEscape(name)
	if force {
		path += "?force=true"
	}
	_, err := send[none](ctx, c, http.MethodDelete, path, nil)
	return err
}
