package router

// Deploy asks for a release of an app to be made and to serve.
type Deploy struct {
	App     string
	By      string            // name of the token that asks
	Release Release           // App, Number, Secrets, By and Created are filled in
	Domains []string          // nil: leave them as they are
	Scale   map[string]string // policy settings to change; others stay
	// Secrets are changes to App.Secrets: a value to set, nil to unset. They
	// take effect together with the release, and only if it comes to serve.
	Secrets map[string]*Secret
}

// DeployStep is the beginning of one step of a deploy, for progress and for
// where the time goes: store, start, probe, route.
type DeployStep struct {
	Name string
	Text string // for people
}
