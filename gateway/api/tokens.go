package api

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/fluxgate/fluxgate/router"
)

// Token is a token as listings show it: without its secret.
type Token struct {
	ID      string    `json:"id"`
	Name    string    `json:"name"`
	Created time.Time `json:"created"`
	Current bool      `json:"current" doc:"The one that asks"`
}

// NewToken asks for a token.
type NewToken struct {
	Name string `json:"name" minLength:"1" maxLength:"100" doc:"Whose or what it is for; shown beside what it does"`
}

// CreatedToken is a new token with its text, which is shown only now.
type CreatedToken struct {
	Token
	Text string `json:"token" doc:"fgt_…; keep it, it cannot be shown again"`
}

func (s *Server) registerTokens() {
	register(s, huma.Operation{
		OperationID: "list-tokens", Method: http.MethodGet, Path: "/v1/tokens", Summary: "All tokens, oldest first", Tags: []string{"tokens"},
	}, func(ctx context.Context, _ *none) ([]Token, error) {
		tokens, err := s.b.Tokens.Tokens(ctx)
		if err != nil {
			return nil, err
		}
		list := make([]Token, 0, len(tokens))
		for _, t := range tokens {
			list = append(list, tokenOf(ctx, t))
		}
		slices.SortFunc(list, func(a, b Token) int {
			if c := a.Created.Compare(b.Created); c != 0 {
				return c
			}
			return strings.Compare(a.ID, b.ID)
		})
		return list, nil
	})
	type create struct{ Body NewToken }
	register(s, huma.Operation{
		OperationID: "create-token", Method: http.MethodPost, Path: "/v1/tokens", Summary: "Make a token", Tags: []string{"tokens"}, DefaultStatus: http.StatusCreated,
	}, func(ctx context.Context, in *create) (CreatedToken, error) {
		name := strings.TrimSpace(in.Body.Name)
		if name == "" || strings.ContainsFunc(name, func(r rune) bool { return r < ' ' || r == 0x7f }) {
			return CreatedToken{}, router.Invalid("the token", []router.Violation{{
				Field: "name", Limit: "printable text", Remedy: "name whose it is or what it is for, e.g. ci",
			}})
		}
		t, text := router.NewToken(name, s.now().UTC())
		if err := s.b.Tokens.PutToken(ctx, t); err != nil {
			return CreatedToken{}, err
		}
		return CreatedToken{tokenOf(ctx, t), text.Reveal()}, nil
	})
	type remove struct {
		ID    string `path:"id" maxLength:"100"`
		Force bool   `query:"force" doc:"Remove it even if it is the one that asks"`
	}
	registerEmpty(s, huma.Operation{
		OperationID: "delete-token", Method: http.MethodDelete, Path: "/v1/tokens/{id}", Summary: "Remove a token; whoever uses it is locked out at once", Tags: []string{"tokens"},
	}, func(ctx context.Context, in *remove) error {
		s.tokensMu.Lock()
		defer s.tokensMu.Unlock()
		tokens, err := s.b.Tokens.Tokens(ctx)
		if err != nil {
			return err
		}
		i := slices.IndexFunc(tokens, func(t router.Token) bool { return t.ID == in.ID })
		switch {
		case i < 0:
			return router.Errorf(router.CodeNotFound, "there is no token %q; `fluxgate token ls` lists them", in.ID)
		case len(tokens) == 1:
			return router.Errorf(router.CodeConflict, "this is the last token: without one nobody can use the control API; make another one first")
		case in.ID == exchangeOf(ctx).token.ID && !in.Force:
			return router.Errorf(router.CodeConflict, "this is the token that you are using; pass --force to remove it all the same")
		}
		return s.b.Tokens.DeleteToken(ctx, in.ID)
	})
}

func tokenOf(ctx context.Context, t router.Token) Token {
	return Token{ID: t.ID, Name: t.Name, Created: t.Created, Current: t.ID == exchangeOf(ctx).token.ID}
}
