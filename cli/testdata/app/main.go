// The app that the tests push: it misbehaves as told by its environment and by
// the paths that are asked for.
package main

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

func main() {
	port := os.Getenv("PORT")
	switch os.Getenv("MODE") {
	case "exit":
		fmt.Println("cannot find my configuration")
		os.Exit(3)
	case "other-port":
		port = "3999"
		fmt.Println("listening on 3999")
	}
	if d, err := time.ParseDuration(os.Getenv("START_DELAY")); err == nil {
		time.Sleep(d)
	}
	host, _ := os.Hostname()
	boot := strconv.FormatInt(time.Now().UnixNano(), 36)
	var now, most atomic.Int64
	var kept atomic.Pointer[[]byte] // memory that is not given back

	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s %s %s\n", os.Getenv("GREETING"), host, boot)
	})
	mux.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) {
		if os.Getenv("MODE") == "unhealthy" {
			http.Error(w, "the database is away", http.StatusInternalServerError)
		}
	})
	mux.HandleFunc("/slow", func(w http.ResponseWriter, r *http.Request) {
		n := now.Add(1)
		defer now.Add(-1)
		for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
		}
		ms, _ := strconv.Atoi(r.URL.Query().Get("ms"))
		time.Sleep(time.Duration(ms) * time.Millisecond)
		fmt.Fprintln(w, boot)
	})
	mux.HandleFunc("/busy", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Fluxgate-Busy", r.URL.Query().Get("for"))
	})
	mux.HandleFunc("/ask", func(w http.ResponseWriter, r *http.Request) {
		res, err := http.Post(os.Getenv("FLUXGATE_BUSY_URL"), "text/plain", strings.NewReader(r.URL.Query().Get("for")))
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		defer res.Body.Close()
		fmt.Fprint(w, res.StatusCode)
	})
	mux.HandleFunc("/most", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, most.Load()) })
	mux.HandleFunc("/env", func(w http.ResponseWriter, r *http.Request) { fmt.Fprintln(w, os.Getenv(r.URL.Query().Get("name"))) })
	mux.HandleFunc("/headers", func(w http.ResponseWriter, r *http.Request) { _ = r.Header.Write(w) })
	mux.HandleFunc("/echo", func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(w, r.Body) })
	mux.HandleFunc("/say", func(_ http.ResponseWriter, r *http.Request) { fmt.Println(r.URL.Query().Get("text")) })
	mux.HandleFunc("/burn", func(_ http.ResponseWriter, r *http.Request) {
		for r.Context().Err() == nil {
		}
	})
	mux.HandleFunc("/eat", func(http.ResponseWriter, *http.Request) {
		for kept := [][]byte(nil); ; kept = append(kept, make([]byte, 4<<20)) {
			for i := 0; len(kept) > 0 && i < 4<<20; i += 4096 {
				kept[len(kept)-1][i] = 1
			}
		}
	})
	mux.HandleFunc("/keep", func(w http.ResponseWriter, r *http.Request) {
		mb, _ := strconv.Atoi(r.URL.Query().Get("mb"))
		b := make([]byte, mb<<20)
		for i := range b {
			b[i] = byte(i)
		}
		kept.Store(&b)
		fmt.Fprintln(w, "kept")
	})
	mux.HandleFunc("/crash", func(http.ResponseWriter, *http.Request) {
		fmt.Println("crashing as asked")
		os.Exit(7)
	})

	end := make(chan os.Signal, 1)
	signal.Notify(end, syscall.SIGTERM)
	go func() {
		<-end
		os.Exit(0)
	}()
	fmt.Println("listening on", port)
	if err := http.ListenAndServe(":"+port, mux); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
}
