package secret

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/smolvm/smolvm/api"
)

// hard is a value that has to be encoded wherever something can be.
const hard = `p"w+ &=%/\ü<é`

func vault(t testing.TB) *Vault {
	t.Helper()
	v := NewVault([]byte("key"))
	for _, s := range []api.Secret{
		{Name: "KEY", Hosts: []string{"api.example.com", "*.below.example.com"}, Value: "the-real-value"},
		{Name: "HARD", Hosts: []string{"API.example.com"}, Value: hard},
		{Name: "OTHER", Hosts: []string{"other.example.com"}, Value: "the-other-value"},
		{Name: "EMPTY", Hosts: []string{"api.example.com"}},
	} {
		if err := v.Set(s); err != nil {
			t.Fatal(err)
		}
	}
	return v
}

// of returns the placeholder of a secret.
func of(t testing.TB, v *Vault, name string) string {
	t.Helper()
	for _, s := range v.List() {
		if s.Name == name {
			return s.Placeholder
		}
	}
	t.Fatalf("there is no %s", name)
	return ""
}

// result is what became of a request.
type result struct {
	*Request
	body  string
	found []string // "KEY body put" or "KEY body: why"
	err   error
}

func rewrite(t testing.TB, v *Vault, r Request) result {
	t.Helper()
	res := result{Request: &r}
	if r.Header == nil {
		r.Header = http.Header{}
	}
	res.err = v.Rewrite(&r, func(f Finding) {
		word := f.Secret + " " + f.Where
		if f.Put {
			res.found = append(res.found, word+" put")
		} else {
			res.found = append(res.found, word+": "+f.Why)
		}
	})
	if r.Body != nil && res.err == nil {
		b, err := io.ReadAll(r.Body)
		res.body, res.err = string(b), err
		r.Body.Close()
		r.Body.Close()
	}
	return res
}

func (r result) has(t *testing.T, found ...string) {
	t.Helper()
	slices.Sort(r.found)
	slices.Sort(found)
	if !slices.Equal(r.found, found) {
		t.Errorf("found %q, want %q", r.found, found)
	}
}

func good(r Request) Request {
	r.Host, r.Secure = "api.example.com", true
	return r
}

func body(text string, length int64) (io.ReadCloser, int64) {
	return io.NopCloser(strings.NewReader(text)), length
}

func TestHead(t *testing.T) {
	v := vault(t)
	key, hard1 := of(t, v, "KEY"), of(t, v, "HARD")
	basic := func(text string) string { return "Basic " + base64.StdEncoding.EncodeToString([]byte(text)) }
	original := http.Header{
		"Authorization": {"Bearer " + key},
		"X-Two":         {"a", key + "," + key},
		"X-Hard":        {hard1},
		"X-Cut":         {key[:40], Prefix, Prefix + strings.Repeat("a", 50)},
	}
	given := original.Clone()
	values := given["X-Two"]
	r := rewrite(t, v, good(Request{Path: "/a?q=" + key + "&r=" + hard1 + "&s", Header: given}))
	if r.err != nil {
		t.Fatal(r.err)
	}
	if q, err := url.ParseQuery(strings.TrimPrefix(r.Path, "/a?")); err != nil || q.Get("q") != "the-real-value" || q.Get("r") != hard || !q.Has("s") {
		t.Errorf("path %s: %v, %v", r.Path, q, err)
	}
	for name, want := range map[string]string{
		"Authorization": "Bearer the-real-value", "X-Two": "a|the-real-value,the-real-value", "X-Hard": hard,
		"X-Cut": strings.Join(original["X-Cut"], "|"),
	} {
		if got := strings.Join(r.Header[name], "|"); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	if values[1] != key+","+key {
		t.Error("what others may keep was changed")
	}
	r.has(t, "KEY header Authorization put", "KEY header X-Two put", "HARD header X-Hard put", "KEY query put", "HARD query put")
	for text, want := range map[string]string{
		basic("user:" + key):       basic("user:the-real-value"),
		basic(key + ":"):           basic("the-real-value:"),
		basic("user:" + hard1):     basic("user:" + hard),
		basic("user:password"):     basic("user:password"),
		"Basic " + key:             "Basic the-real-value", // no base64
		"basic  " + basic("x")[6:]: "basic  " + basic("x")[6:],
		"Basic " + base64.RawStdEncoding.EncodeToString([]byte("u:"+key)): basic("u:the-real-value"),
	} {
		r := rewrite(t, v, good(Request{Path: "/", Header: http.Header{"Authorization": {text}}}))
		if got := r.Header.Get("Authorization"); got != want || r.err != nil {
			t.Errorf("%s: %s, %v", text, got, r.err)
		}
	}
	r = rewrite(t, v, good(Request{Path: "/bot" + key + "/send"}))
	if r.Path != "/bot"+key+"/send" {
		t.Errorf("path %s", r.Path)
	}
	r.has(t, "KEY path: values are not put into the path before its query")
}

// Where a secret is not meant to go its placeholder stays, and is found.
func TestElsewhere(t *testing.T) {
	v := vault(t)
	key := of(t, v, "KEY")
	for _, test := range []struct {
		host   string
		secure bool
		why    string
	}{
		{"api.example.com", false, "the request is not encrypted"},
		{"evil.example.com", true, "it is not meant for evil.example.com"},
		{"example.com", true, "it is not meant for example.com"},
		{"api.example.com.evil.com", true, "it is not meant for api.example.com.evil.com"},
		{"xapi.example.com", true, "it is not meant for xapi.example.com"},
		{"below.example.com", true, "it is not meant for below.example.com"},
		{"notbelow.example.com", true, "it is not meant for notbelow.example.com"},
		{"", true, "it is not meant for "},
		{"203.0.113.1", true, "it is not meant for 203.0.113.1"},
	} {
		for _, length := range []int64{int64(len(key)) + 2, -1} {
			b, n := body("<"+key+">", length)
			r := rewrite(t, v, Request{
				Host: test.host, Secure: test.secure, Path: "/" + key + "?" + key, Body: b, Length: n,
				Header: http.Header{"Authorization": {"Bearer " + key, "Basic " + base64.StdEncoding.EncodeToString([]byte("u:"+key))}},
			})
			if r.err != nil || r.body != "<"+key+">" || r.Length != length || strings.Contains(fmt.Sprint(r.Header, r.Path), "the-real") {
				t.Errorf("%s: %+v", test.host, r)
			}
			r.has(t, "KEY header Authorization: "+test.why, "KEY path: "+test.why, "KEY query: "+test.why, "KEY body: "+test.why)
		}
	}
	for _, host := range []string{"a.below.example.com", "a.b.below.example.com"} {
		r := rewrite(t, v, Request{Host: host, Secure: true, Path: "/?" + key})
		if r.Path != "/?the-real-value" {
			t.Errorf("%s: %s", host, r.Path)
		}
	}
}

func TestBody(t *testing.T) {
	v := vault(t)
	key, hard1 := of(t, v, "KEY"), of(t, v, "HARD")
	for _, test := range []struct{ kind, body, want string }{
		{"", "<" + key + ">", "<the-real-value>"},
		{"text/plain", hard1, hard},
		{"application/x-www-form-urlencoded; charset=utf-8", "a=" + hard1 + "&b=" + key, "a=" + url.QueryEscape(hard) + "&b=the-real-value"},
		{"application/json", `{"a":"` + hard1 + `"}`, `{"a":"` + inJSON(hard) + `"}`},
		{"application/vnd.api+json", `"` + hard1 + `"`, `"` + inJSON(hard) + `"`},
		{"text/plain", "nothing", "nothing"},
		{"text/plain", key[:63], key[:63]},
		{"text/plain", Prefix + key, Prefix + "the-real-value"},
		{"text/plain", key[:30] + key + key[:30], key[:30] + "the-real-value" + key[:30]},
		{"text/plain", strings.Repeat("s", 100) + strings.Repeat("smolvm_secret", 9), strings.Repeat("s", 100) + strings.Repeat("smolvm_secret", 9)},
	} {
		for _, stream := range []bool{false, true} {
			length := int64(len(test.body))
			if stream {
				length = -1
			}
			r := rewrite(t, v, good(Request{
				Path: "/", Header: http.Header{"Content-Type": {test.kind}},
				Body: io.NopCloser(iotest.OneByteReader(strings.NewReader(test.body))), Length: length,
			}))
			want := int64(len(test.want))
			if stream {
				want = -1
			}
			if r.err != nil || r.body != test.want || r.Length != want {
				t.Errorf("%s, streamed %t: %q of length %d, %v; want %q", test.kind, stream, r.body, r.Length, r.err, test.want)
			}
		}
	}
	var back []string
	if err := json.Unmarshal([]byte(`["`+inJSON(hard)+`"]`), &back); err != nil || back[0] != hard {
		t.Error(back, err)
	}
}

// A placeholder that is split at any place becomes the value.
func TestSplit(t *testing.T) {
	v := vault(t)
	text := "before " + of(t, v, "KEY") + " after " + of(t, v, "OTHER")
	want := strings.Replace(text, of(t, v, "KEY"), "the-real-value", 1)
	for i := range len(text) {
		parts := io.MultiReader(strings.NewReader(text[:i]), strings.NewReader(text[i:]))
		r := rewrite(t, v, good(Request{Path: "/", Body: io.NopCloser(parts), Length: -1}))
		if r.body != want || r.err != nil {
			t.Fatalf("split at %d: %q, %v", i, r.body, r.err)
		}
		r.has(t, "KEY body put", "OTHER body: it is not meant for api.example.com")
		parts = io.MultiReader(strings.NewReader(text[:i]), strings.NewReader(text[i:]))
		r = rewrite(t, v, Request{Host: "x", Secure: true, Path: "/", Body: io.NopCloser(parts), Length: -1})
		if r.body != text {
			t.Fatalf("split at %d: %q", i, r.body)
		}
		r.has(t, "KEY body: it is not meant for x", "OTHER body: it is not meant for x")
	}
}

// Who talks both ways is not kept waiting for bytes that could begin a placeholder.
func TestStreamGoesOn(t *testing.T) {
	v := vault(t)
	in, out := io.Pipe()
	r := good(Request{Path: "/", Header: http.Header{}, Body: in, Length: -1})
	if err := v.Rewrite(&r, func(Finding) {}); err != nil {
		t.Fatal(err)
	}
	said := make(chan string)
	go func() {
		defer close(said)
		buf := make([]byte, 100)
		for {
			n, err := r.Body.Read(buf)
			if err != nil {
				return
			}
			said <- string(buf[:n])
		}
	}()
	io.WriteString(out, "questions") // its last byte may begin one
	got := <-said
	for got != "questions" {
		got += <-said
	}
	r.Body.Close()
	for range said {
	}
	if _, err := out.Write([]byte("x")); err == nil {
		t.Error("the source is not closed")
	}
}

func TestBounds(t *testing.T) {
	v := vault(t)
	key := of(t, v, "KEY")
	long := strings.Repeat("x", MaxHeld) + key
	b, n := body(long, int64(len(long)))
	r := rewrite(t, v, good(Request{Path: "/", Body: b, Length: n}))
	if r.body != long || r.Length != n || r.err != nil {
		t.Errorf("%d bytes of length %d, %v", len(r.body), r.Length, r.err)
	}
	r.has(t, "KEY body: the body is too long to be held")
	for kind, req := range map[string]Request{
		"header": {Path: "/", Header: http.Header{"X": {strings.Repeat(key, maxPut+1)}}},
		"query":  {Path: "/?" + strings.Repeat(key, maxPut+1)},
	} {
		if r := rewrite(t, v, good(req)); !errors.Is(r.err, api.ErrExhausted) {
			t.Errorf("%s: %v", kind, r.err)
		}
	}
	// Bodies that are held at once.
	var all []Request
	for {
		b, n := body(strings.Repeat("x", MaxHeld), MaxHeld)
		r := good(Request{Path: "/", Header: http.Header{}, Body: b, Length: n})
		if err := v.Rewrite(&r, func(Finding) {}); err != nil {
			if !errors.Is(err, api.ErrExhausted) || len(all) != maxHeldAll/MaxHeld {
				t.Errorf("after %d: %v", len(all), err)
			}
			break
		}
		all = append(all, r)
	}
	for _, r := range all {
		r.Body.Close()
		r.Body.Close()
	}
	if n := v.budget.used.Load(); n != 0 {
		t.Errorf("%d bytes are still counted", n)
	}
	b, _ = body("short", 0)
	if r := rewrite(t, v, good(Request{Path: "/", Body: b, Length: 100})); !errors.Is(r.err, api.ErrUnavailable) || v.budget.used.Load() != 0 {
		t.Errorf("%v", r.err)
	}
}

func TestRefused(t *testing.T) {
	v := vault(t)
	for kind, req := range map[string]Request{
		"header": {Path: "/", Header: http.Header{"X": {of(t, v, "EMPTY")}}},
		"query":  {Path: "/?" + of(t, v, "EMPTY")},
		"body":   {Path: "/", Length: placeholderLen, Body: io.NopCloser(strings.NewReader(of(t, v, "EMPTY")))},
		"stream": {Path: "/", Length: -1, Body: io.NopCloser(strings.NewReader(of(t, v, "EMPTY")))},
	} {
		r := rewrite(t, v, good(req))
		if !errors.Is(r.err, api.ErrUnavailable) || !strings.Contains(api.AsError(r.err).Recovery, "secret set") {
			t.Errorf("%s: %v", kind, r.err)
		}
	}
	// Compressed: nobody sees what is in it.
	b, n := body(of(t, v, "KEY"), placeholderLen)
	r := rewrite(t, v, good(Request{Path: "/", Header: http.Header{"Content-Encoding": {"gzip"}}, Body: b, Length: n}))
	if r.body != of(t, v, "KEY") || r.err != nil {
		t.Errorf("%q, %v", r.body, r.err)
	}
	r.has(t)
}

func TestVault(t *testing.T) {
	v := vault(t)
	env := v.Env()
	if len(env) != 4 || !slices.Contains(env, "KEY="+of(t, v, "KEY")) {
		t.Errorf("%q", env)
	}
	p := of(t, v, "KEY")
	if len(p) != placeholderLen || !strings.HasPrefix(p, Prefix) || strings.Trim(p, "abcdefghijklmnopqrstuvwxyz0123456789_") != "" {
		t.Errorf("%q", p)
	}
	again := NewVault([]byte("key"))
	again.Set(api.Secret{Name: "KEY", Hosts: []string{"x.example"}})
	foreign := NewVault([]byte("another key"))
	foreign.Set(api.Secret{Name: "KEY", Hosts: []string{"x.example"}})
	if of(t, again, "KEY") != p || of(t, foreign, "KEY") == p || of(t, v, "OTHER") == p {
		t.Error("a placeholder is of its key and name")
	}
	if s := again.List()[0]; s.Ready || s.Hosts[0] != "x.example" {
		t.Errorf("%+v", s)
	}
	for host, want := range map[string]bool{"api.example.com": true, "a.below.example.com": true, "example.com": false, "": false} {
		if v.For(host) != want {
			t.Errorf("%q: %t", host, !want)
		}
	}
	if names := v.Find([]byte("x" + strings.ToUpper(p) + "." + of(t, v, "OTHER"))); !slices.Equal(names, []string{"KEY", "OTHER"}) {
		t.Error(names)
	}
	if names := v.Find([]byte(p[:63])); names != nil {
		t.Error(names)
	}
	if !v.Remove("KEY") || v.Remove("KEY") || v.Find([]byte(p)) != nil {
		t.Error("it is not removed")
	}
	r := rewrite(t, v, good(Request{Path: "/?" + p}))
	if r.Path != "/?"+p {
		t.Error(r.Path)
	}
	for i := range api.MaxSecrets {
		err := v.Set(api.Secret{Name: fmt.Sprintf("N%d", i), Hosts: []string{"x.example"}})
		if full := i >= api.MaxSecrets-3; errors.Is(err, api.ErrExhausted) != full {
			t.Fatal(i, err)
		}
	}
	// No format shows a value.
	if text := fmt.Sprintf("%v %+v %#v", v.List(), v.List(), v.Env()); strings.Contains(text, "the-") {
		t.Error(text)
	}
}

// A vault may be changed while requests pass.
func TestAtOnce(t *testing.T) {
	v := vault(t)
	key := of(t, v, "KEY")
	stop := time.After(50 * time.Millisecond)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			v.Set(api.Secret{Name: "KEY", Hosts: []string{"api.example.com"}, Value: fmt.Sprint("value-", i)})
		}
	}()
	for {
		r := rewrite(t, v, good(Request{Path: "/?" + key, Body: io.NopCloser(bytes.NewReader([]byte(key))), Length: -1}))
		if !strings.HasPrefix(r.Path, "/?") || strings.Contains(r.Path, Prefix) || "/?"+r.body != r.Path {
			t.Fatalf("%s, %s", r.Path, r.body)
		}
		select {
		case <-done:
			return
		default:
		}
	}
}

func FuzzStream(f *testing.F) {
	v := vault(f)
	key := of(f, v, "KEY")
	f.Add("x"+key+"y", 7)
	f.Add(Prefix+Prefix+key[:20], 1)
	f.Fuzz(func(t *testing.T, text string, step int) {
		text = strings.ReplaceAll(text, "KEY", key)
		want := strings.ReplaceAll(text, key, "the-real-value")
		for _, other := range []string{"HARD", "OTHER", "EMPTY"} {
			if strings.Contains(text, of(t, v, other)) {
				return
			}
		}
		src := io.Reader(strings.NewReader(text))
		if step%3 == 1 {
			src = iotest.OneByteReader(src)
		} else if step%3 == 2 {
			src = iotest.HalfReader(src)
		}
		r := rewrite(t, v, good(Request{Path: "/", Body: io.NopCloser(src), Length: -1}))
		if r.body != want || r.err != nil {
			t.Errorf("%q became %q, want %q, %v", text, r.body, want, r.err)
		}
	})
}
