// Package api is Fluxgate's control API: the server, its types and the client
// that the command line uses. It is plain net/http; the OpenAPI description at
// /openapi.json is made from the Go types.
//
// Every answer that is not a success is an RFC 9457 problem (see [Problem]).
// Long answers are streams of JSON objects, one a line (NDJSON), flushed as
// they happen; an empty line now and then only keeps the connection alive.
package api
