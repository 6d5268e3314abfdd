package api

import (
	"net/http"
	"strings"

	"github.com/fluxgate/fluxgate/router"
)

// public are the paths that need no token.
var public = map[string]bool{"/openapi.json": true, "/healthz": true}

// nobody is compared with when there is no such token, so that the answer takes
// as long. No text has this hash.
var nobody = router.Token{Hash: strings.Repeat("0", 64)}

// authenticate finds the token of a request (RFC 6750 section 2.1).
func (s *Server) authenticate(r *http.Request) (router.Token, error) {
	header := r.Header.Get("Authorization")
	if header == "" {
		return router.Token{}, router.Errorf(router.CodeUnauthorized,
			"this needs a token; make one with `fluxgate token create NAME` on the gateway's machine, and give it to `fluxgate login`")
	}
	wrong := router.Errorf(router.CodeUnauthorized, "this token is not valid here; it may have been removed: `fluxgate login` takes another one")
	scheme, text, _ := strings.Cut(header, " ")
	id, ok := router.TokenID(text)
	if !strings.EqualFold(scheme, "Bearer") || !ok {
		return router.Token{}, wrong
	}
	token, err := s.b.Tokens.Token(r.Context(), id)
	unknown := err != nil && router.CodeOf(err) == router.CodeNotFound
	if err != nil && !unknown {
		return router.Token{}, err
	}
	if unknown {
		token = nobody
		token.ID = id
	}
	if !token.Matches(text) || unknown {
		return router.Token{}, wrong
	}
	return token, nil
}
