package cli

import (
	"github.com/fluxgate/fluxgate/gateway/api"
	"github.com/fluxgate/fluxgate/router"
)

// JSONShapes is what each command prints with --json, by the command's words:
// a value of the type. For logs it is one line. The command reference is made
// from it.
func JSONShapes() map[string]any {
	return map[string]any{
		"push":             api.Deployed{},
		"apps":             []api.App{},
		"ps":               []api.Instance{},
		"logs":             router.LogLine{},
		"open":             api.App{},
		"rm":               removed{},
		"releases":         []api.Release{},
		"rollback":         api.Deployed{},
		"env":              []api.Variable{},
		"domains":          []api.Domain{},
		"policy":           []api.Setting{},
		"policy set":       []api.Setting{},
		"policy history":   []router.PolicyEdit{},
		"policy recommend": recommended{},
		"policy rehearse":  rehearsed{},
		"why":              []router.Event{},
		"node add":         api.Node{},
		"node ls":          []api.Node{},
		"node drain":       api.Node{},
		"node rm":          removed{},
		"backup":           backedUp{},
		"restore":          restored{},
		"token create":     api.CreatedToken{},
		"token ls":         []api.Token{},
		"token rm":         removed{},
		"login":            loggedIn{},
		"doctor":           api.Report{},
		"version":          versions{},
	}
}
