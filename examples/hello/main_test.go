package main

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestHandler(t *testing.T) {
	t.Setenv("GREETING", "Good day")
	h := handler()
	tests := map[string]struct {
		path   string
		status int
		body   string
	}{
		"greets":              {"/", http.StatusOK, "Good day from "},
		"greets on any path":  {"/a/b", http.StatusOK, "Good day from "},
		"is healthy":          {"/healthz", http.StatusOK, "ok"},
		"waits":               {"/slow?ms=1", http.StatusOK, "1ms later"},
		"refuses a bad wait":  {"/slow?ms=soon", http.StatusBadRequest, "from 0 to 60000"},
		"refuses a long wait": {"/slow?ms=60001", http.StatusBadRequest, "from 0 to 60000"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			w := httptest.NewRecorder()
			h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, tt.path, nil))
			if w.Code != tt.status || !strings.Contains(w.Body.String(), tt.body) {
				t.Errorf("GET %s: %d %q, want %d and %q", tt.path, w.Code, w.Body, tt.status, tt.body)
			}
		})
	}
}
