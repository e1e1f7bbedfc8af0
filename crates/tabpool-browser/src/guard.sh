# The guard of one browser: what ends it when the host can no longer do so, killed by SIGKILL included.
#
# Its stdin is a pipe whose other end only the host holds. The host writes the profile folder, its lock file (an
# empty line for a profile that is kept), "browser PID" once there is one, and "done" after it has cleaned up
# itself. End of file without "done" means that the host died: every process of the browser is killed and the
# profile removed. Nothing is passed as an argument, so that no search by profile finds the guard itself.
#
# Plain POSIX sh with grep, sed, awk and tr; /proc where there is one, ps elsewhere.

trap '' HUP INT QUIT TERM TSTP TTIN TTOU PIPE

IFS= read -r profile || exit 0
IFS= read -r lock || exit 0
browser=
while IFS= read -r line; do
    case $line in
        done) exit 0 ;;
        'browser '*) browser=${line#browser } ;;
    esac
done

# The browser's group and all its descendants, without the defunct. Descendants must be read before the first
# kill, because the orphans of a killed process have another parent.
tree() {
    [ -n "$browser" ] || return 0
    if [ -r /proc/self/stat ]; then
        cat /proc/[0-9]*/stat 2>/dev/null | sed 's/^\([0-9]*\) (.*) \(.\) \([0-9]*\) \([0-9]*\) .*/\1 \3 \4 \2/'
    else
        ps -axo pid=,ppid=,pgid=,stat=
    fi | awk -v root="$browser" '
        $4 !~ /^[ZX]/ { parent[$1] = $2; if ($1 == root || $3 == root) member[$1] = 1 }
        END {
            do {
                changed = 0
                for (pid in parent) if (!(pid in member) && (parent[pid] in member)) { member[pid] = 1; changed = 1 }
            } while (changed)
            for (pid in member) print pid
        }'
}

# Processes that name the profile as a browser does, or whose environment carries it.
users() {
    if [ -r /proc/self/stat ]; then
        for file in $(grep -l -a -F -e "$profile" /proc/[0-9]*/cmdline 2>/dev/null); do
            case "$(tr '\0' ' ' <"$file" 2>/dev/null) " in
                *"--user-data-dir=$profile "* | *"--profile $profile "*) pid=${file#/proc/}; echo "${pid%/*}" ;;
            esac
        done
        for file in $(grep -l -a -F -e "TABPOOL_PROFILE=$profile" /proc/[0-9]*/environ 2>/dev/null); do
            if tr '\0' '\n' <"$file" 2>/dev/null | grep -q -x -F -e "TABPOOL_PROFILE=$profile"; then
                pid=${file#/proc/}; echo "${pid%/*}"
            fi
        done
    else
        ps -axww -o pid=,command= | while read -r pid command; do
            case "$command " in
                *"--user-data-dir=$profile "* | *"--profile $profile "*) echo "$pid" ;;
            esac
        done
    fi
}

# A host killed between starting the browser and naming it leaves one that may not have replaced its command line
# yet, so without a number the search goes on for a second. With one, two quiet rounds suffice.
if [ -n "$browser" ]; then enough=2; else enough=20; fi
quiet=0
round=0
while [ "$quiet" -lt "$enough" ] && [ "$round" -lt 200 ]; do
    found=$(tree; users)
    if [ -n "$found" ]; then
        quiet=0
        [ -n "$browser" ] && kill -KILL "-$browser" 2>/dev/null
        for pid in $found; do kill -KILL "$pid" 2>/dev/null; done
    else
        quiet=$((quiet + 1))
    fi
    round=$((round + 1))
    sleep 0.05
done

# Chromium's socket lives in the system's temporary folder and outlives a kill. Only its two known names are
# removed, then the folder if that left it empty.
socket=$(readlink "$profile/SingletonSocket" 2>/dev/null)
case $socket in
    /*/SingletonSocket)
        rm -f -- "$socket" "${socket%Socket}Cookie"
        rmdir -- "${socket%/SingletonSocket}" 2>/dev/null
        ;;
esac

if [ -n "$lock" ]; then
    rm -rf -- "$profile"
    rm -f -- "$lock"
fi
exit 0
