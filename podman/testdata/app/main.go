// Command app is what the tests run in containers: a server that does as it is
// told by the path of a request.
package main

import (
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
)

var kept [][]byte

func main() {
	if len(os.Args) > 1 && os.Args[1] == "exit" {
		code, _ := strconv.Atoi(os.Args[2])
		fmt.Println("leaving with", code)
		os.Exit(code)
	}
	fmt.Println("app started")
	fmt.Fprintln(os.Stderr, "app complains")
	term := make(chan os.Signal, 1)
	signal.Notify(term, syscall.SIGTERM)
	go func() {
		<-term
		fmt.Println("app was asked to stop")
		os.Exit(0)
	}()
	http.HandleFunc("/say/", func(w http.ResponseWriter, r *http.Request) {
		fmt.Println(strings.TrimPrefix(r.URL.Path, "/say/"))
	})
	http.HandleFunc("/long/", func(w http.ResponseWriter, r *http.Request) {
		n, _ := strconv.Atoi(strings.TrimPrefix(r.URL.Path, "/long/"))
		fmt.Println(strings.Repeat("x", n))
	})
	http.HandleFunc("/exit/", func(w http.ResponseWriter, r *http.Request) {
		code, _ := strconv.Atoi(strings.TrimPrefix(r.URL.Path, "/exit/"))
		os.Exit(code)
	})
	http.HandleFunc("/eat", func(w http.ResponseWriter, r *http.Request) {
		for {
			b := make([]byte, 4<<20)
			for i := 0; i < len(b); i += 4096 {
				b[i] = 1
			}
			kept = append(kept, b)
		}
	})
	http.HandleFunc("/burn", func(w http.ResponseWriter, r *http.Request) {
		for r.Context().Err() == nil {
		}
	})
	http.HandleFunc("/keep/", func(w http.ResponseWriter, r *http.Request) { // so many MB, half of it page cache
		n, _ := strconv.Atoi(strings.TrimPrefix(r.URL.Path, "/keep/"))
		b := make([]byte, n<<19)
		for i := range b {
			b[i] = byte(i)
		}
		kept = append(kept, b)
		f, err := os.Create("/kept")
		if err == nil {
			_, err = f.Write(b)
		}
		if err == nil {
			err = f.Sync()
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		_ = f.Close()
		fmt.Fprint(w, "kept")
	})
	http.HandleFunc("/file", func(w http.ResponseWriter, r *http.Request) {
		b, err := os.ReadFile(r.URL.Query().Get("name"))
		if err != nil {
			http.Error(w, err.Error(), http.StatusNotFound)
			return
		}
		_, _ = w.Write(b)
	})
	http.HandleFunc("/busy/", func(w http.ResponseWriter, r *http.Request) {
		res, err := http.Post(os.Getenv("FLUXGATE_BUSY_URL"), "text/plain", strings.NewReader(strings.TrimPrefix(r.URL.Path, "/busy/")))
		if err != nil {
			fmt.Fprint(w, err)
			return
		}
		defer res.Body.Close()
		fmt.Fprint(w, res.Status)
	})
	http.HandleFunc("/env", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintln(w, strings.Join(os.Environ(), "\n"))
	})
	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		host, _ := os.Hostname()
		fmt.Fprint(w, host)
	})
	if err := http.ListenAndServe(":"+os.Getenv("PORT"), nil); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
