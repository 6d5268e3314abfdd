// Package router is Fluxgate's domain: apps, releases, routes, policies,
// nodes and instances, what makes each of them valid and how an instance may
// change. It also holds the two in-memory views that the rest of the product
// reads: the [Catalog], every app's record as last seen, and the immutable
// [Table], which the request path loads with one atomic read.
//
// The package imports no engine: no Redis, no Podman, no HTTP server.
package router
